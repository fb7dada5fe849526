"""Files that are made once and then shared: written atomically, one maker at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitq.errors import DataError
from vitq.store.atomic import replace_file, replace_folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a cache entry, across processes; a second maker waits, then finds the entry made.

    The lock dies with its process. Raises DataError when the cache folder cannot be written.
    """
    from filelock import FileLock

    with _writable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.parent / f"{path.name}.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def publish(path: Path, content: bytes) -> None:
    """Write a file so that others see it whole or not at all. Call it under `locked(path)`."""
    with _writable(path.parent):
        replace_file(path, content)


@contextmanager
def published_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it gets its final name at the end, or is removed when the body raises.

    Call it under `locked(path)`. What an entry of the same name held before is replaced.
    """
    with _writable(path.parent), replace_folder(path) as part:
        yield part


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = f"cannot write the cache folder {str(folder)!r}: {error.strerror or error}"
        action = "free space there, or set cache_dir (or VITQ_CACHE_DIR) to a folder that you can write"
        raise DataError(f"{text}; {action}", "cache_dir", str(folder)) from error
