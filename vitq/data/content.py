"""What files hold, as a hash; that of a large file is kept on disk, so that a plan reads it once."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from vitq.errors import DataError

# How a file begins that stands for one that Git LFS has not fetched.
LFS = b"version https://git-lfs"

# Bytes from which reading a file takes longer than a look into the cache.
_LARGE = 64 * 2**20


def file_hash(path: Path, cache_dir: str | Path | None = None, key: str = "") -> str:
    """sha256 of a file's content, 64 hex digits.

    Read again only when the file's path, size, inode or times differ. cache_dir: where the hashes of large files are
    kept for later processes; None: in this process alone. Raises DataError, of this config key, when the file cannot
    be read.
    """
    try:
        facts = path.stat()
        known = (str(path.absolute()), facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns)
        kept = None if cache_dir is None or facts.st_size < _LARGE else str(cache_dir)
        return _hash(known, kept)
    except OSError as error:
        file = f"{key}={str(path)!r}" if key else repr(str(path))
        raise DataError(f"{file} cannot be read: {error.strerror or error}", key, str(path)) from error


@lru_cache(maxsize=4096)
def _hash(known: tuple[str, int, int, int, int], cache_dir: str | None) -> str:
    from vitq.data.cache import locked, publish

    if cache_dir is None:
        return _read(known[0])
    entry = Path(cache_dir).expanduser() / "hashes" / hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]
    with locked(entry):
        if not entry.exists():
            publish(entry, _read(known[0]).encode())
        return entry.read_text()


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
