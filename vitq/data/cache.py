"""Files that are made once and then shared: written atomically, one maker at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitq.errors import DataError


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
    part = scratch(path)
    with _writable(path.parent):
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync(path.parent)


@contextmanager
def published_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it gets its final name at the end, or is removed when the body raises.

    Call it under `locked(path)`. What an entry of the same name held before is replaced.
    """
    part = scratch(path)
    with _writable(path.parent):
        part.mkdir()
    try:
        with _writable(path.parent):
            yield part
            for file in part.iterdir():
                descriptor = os.open(file, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            if path.exists():
                shutil.rmtree(path)
            os.rename(part, path)
            _sync(path.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def scratch(path: Path) -> Path:
    """Name for the unfinished form of an entry. Under the entry's lock an old one belongs to nobody: it is removed."""
    part = path.parent / f"{path.name}.part"
    if part.is_dir():
        shutil.rmtree(part)
    elif part.exists():
        part.unlink()
    return part


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the cache folder {str(folder)!r}: {error.strerror or error}; "
            "free space there, or set cache_dir (or VITQ_CACHE_DIR) to a folder that you can write",
            "cache_dir",
            str(folder),
        ) from error
