"""One file of the store: bytes, records, arrays, tables. All writes are atomic; all failures are StoreError."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from vitq.errors import StoreError
from vitq.store.atomic import write_bytes
from vitq.store.record import StoredRecord

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

R = TypeVar("R", bound=StoredRecord)


def read_bytes(path: Path) -> bytes | None:
    """Content of a file, None when it does not exist. Raises StoreError when it cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error.strerror or error, "check permissions and the disk") from error


def read_record(path: Path, kind: type[R], remedy: str) -> R | None:
    """A stored record, None when the file does not exist. Raises StoreError when it is not a valid `kind`."""
    data = read_bytes(path)
    if data is None:
        return None
    try:
        return kind.model_validate(json.loads(data))
    except ValidationError as error:
        wrong = {".".join(map(str, e["loc"])) or "record": e["msg"] for e in error.errors()[:5]}
        reason = "; ".join(f"{key}: {message}" for key, message in wrong.items())
        raise unreadable(path, reason, remedy, next(iter(wrong))) from error
    except (ValueError, RecursionError) as error:
        raise unreadable(path, f"not JSON ({error})", remedy, "JSON") from error


def read_hint(path: Path, kind: type[R]) -> R | None:
    """As `read_record`, but None where it is unreadable, too: for what must not stop anything."""
    try:
        return read_record(path, kind, "")
    except StoreError:
        return None


def remove(path: Path) -> None:
    """Remove a file or a folder with all that it holds, where it exists. Raises StoreError when the disk refuses."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # another process has removed it meanwhile
    except OSError as error:
        text = f"cannot remove {path}: {error.strerror or error}; remove it by hand"
        raise StoreError(text, value=path) from error


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Store named arrays of numbers as one .npz; equal arrays, equal bytes."""
    import numpy as np

    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise StoreError(f"cannot write {path}: array {name!r} holds Python objects; pass numbers", name, path)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def arrays_of(data: bytes, path: Path, remedy: str) -> dict[str, np.ndarray]:
    """The arrays that `write_arrays` stored at `path`. Raises StoreError when they are unreadable."""
    import numpy as np

    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise unreadable(path, error, remedy) from error


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Store a table as parquet."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())


def table_of(data: bytes, path: Path, remedy: str) -> pd.DataFrame:
    """The table that `write_table` stored at `path`. Raises StoreError when it is unreadable."""
    import pandas as pd
    import pyarrow as pa

    try:
        return pd.read_parquet(io.BytesIO(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(path, error, remedy) from error


def unreadable(path: Path, reason: object, remedy: str, key: str = "") -> StoreError:
    """What a file that cannot be read raises: which one, why, and what to do. key: the entry that is wrong."""
    why = " ".join(str(reason).split())  # that of a YAML error is several lines
    return StoreError(f"cannot read {path}: {why}; {remedy}", key, path)
