"""Files and folders that are replaced as a whole: readers see the old or the new one, even after a crash.

A write goes to a temporary file in the same directory, is fsynced, renamed over the target, and the directory is
fsynced, so that neither a killed process nor a lost machine leaves half a record. Temporary files carry host and
process, so that the next writer in that directory can remove those whose writer is dead.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from vitq.errors import StoreError
from vitq.store.process import is_alive

# A temporary file of another machine, or of a process id in use again, counts as abandoned after this many seconds.
ABANDONED_AFTER = 24 * 3600

_TEMPORARY = re.compile(r"\.(?P<target>.+)\.(?P<host>[^.]+)\.(?P<pid>\d+)\.\d+\.tmp")
_counter = itertools.count()
_being_written: set[str] = set()  # temporary files of this process
_lock = threading.Lock()


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the content of `path` by `data`, atomically and durably; missing directories are made.

    Raises StoreError (disk full, read-only, quota, no permission …); the old content is then still there.
    """
    try:
        replace_file(path, data)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}. The earlier content, if any, is untouched; "
            "free space or permissions there, or choose another folder with runs_dir=DIR, and start again",
            value=path,
        ) from error


def replace_file(path: Path, data: bytes) -> None:
    """As `write_bytes`, but raises OSError."""
    make_dir(path.parent)
    remove_abandoned(path.parent)
    with temporary_file(path) as temporary:
        write_file(temporary, data)
        os.replace(temporary, path)
    _sync(path.parent)


@contextlib.contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill with files; at the end it takes the place of `path`.

    Only one process at a time may do so for the same path. Raises OSError.
    """
    make_dir(path.parent)
    remove_abandoned(path.parent)
    with temporary_file(path) as temporary:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        if path.exists():
            shutil.rmtree(path)
        os.rename(temporary, path)
    _sync(path.parent)


def make_dir(path: Path) -> None:
    """Create `path` and its missing parents, each made durable in its own parent. Raises OSError."""
    if path.is_dir():
        return
    if path.parent != path:
        make_dir(path.parent)
    with contextlib.suppress(FileExistsError):  # another process may have made it just now
        os.mkdir(path)
    if not path.is_dir():
        raise NotADirectoryError(20, "a file of that name is in the way", str(path))
    _sync(path.parent)


@contextlib.contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """A name in the folder of `path` for a file or folder that is gone afterwards: renamed, or removed here.

    What a killed process leaves under such a name is removed by the next write in that folder.
    """
    name = f".{path.name}.{host_id()}.{os.getpid()}.{next(_counter)}.tmp"
    temporary = path.with_name(name)
    with _lock:
        _being_written.add(str(temporary))
    try:
        yield temporary
    except BaseException:
        # This error is the one to report; what cannot be removed now, the next writer removes.
        _remove(temporary)
        raise
    finally:
        with _lock:
            _being_written.discard(str(temporary))


def write_file(path: Path, data: bytes, durable: bool = True) -> None:
    """Make a file that must not exist yet; durable: it is on the disk when this returns. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_abandoned(directory: Path) -> None:
    """Remove the temporary files in a folder whose writer is dead. Raises OSError where it cannot be listed."""
    for path in abandoned(directory):
        _remove(path)  # another writer may be removing the same one; what stays is tried again by the next writer


def abandoned(directory: Path) -> Iterator[Path]:
    """Temporary files in a folder whose writer is dead. Raises OSError."""
    for entry in os.scandir(directory):
        match = _TEMPORARY.fullmatch(entry.name)
        if match and _abandoned(entry, match["host"], int(match["pid"])):
            yield Path(entry.path)


def _abandoned(entry: os.DirEntry[str], host: str, pid: int) -> bool:
    if host == host_id():
        if pid == os.getpid():
            with _lock:
                return entry.path not in _being_written  # else: of a dead process with the same id
        if not is_alive(pid):
            return True
    try:
        return time.time() - entry.stat().st_mtime > ABANDONED_AFTER
    except FileNotFoundError:
        return False  # its writer has just renamed it


def host_id() -> str:
    """This machine and its process-id namespace: two containers may share a host name and not their processes."""
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        namespace = "0"  # not Linux: process ids are the machine's
    return re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:48] + "-" + namespace
