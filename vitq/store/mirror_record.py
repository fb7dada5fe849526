"""`tracker.json`: what is known of a run's mirror. A hint that can be lost: mirrors are rebuilt, or uploaded again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from vitq.store.atomic import write_bytes
from vitq.store.files import read_record
from vitq.store.record import StoredRecord, Timestamp
from vitq.store.rundir import RunDir

# A W&B id that was deleted can never be used again; so many further generations of it are tried.
GENERATIONS = 9


class Upload(StoredRecord):
    """A finished upload: when, of which folder, and to which run of which server."""

    at: Timestamp
    sync_dir: str
    server: str
    entity: str | None
    project: str
    id: str


class TrackerRecord(StoredRecord):
    """Where the mirror of a run is.

    id: in W&B; the signature, with `-g2` … behind it where W&B refuses to use a deleted id again. group: the sweep.
    sync_dir: folder of the newest attempt; older: those of earlier ones that are still there. exit_code: what it
    finished with, null while it runs or where it was killed. probes: those that it shows, name → when they were made;
    null where an older vitq wrote this.
    """

    # A record of an older or a newer vitq: unknown fields are ignored, the others are kept.
    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    generation: Annotated[int, Field(ge=1)] = 1
    mode: Literal["offline", "online"] = "offline"
    sync_dir: str
    older: tuple[str, ...] = ()
    group: str | None = None
    url: str | None = None
    exit_code: int | None = None
    probes: dict[str, str] | None = None
    uploaded: Upload | None = None


def read(run_dir: RunDir) -> TrackerRecord | None:
    """The stored record, None when there is none. Raises StoreError when it is unreadable."""
    return read_record(run_dir.tracker_path, TrackerRecord, "remove the file; `vitq track rebuild` writes it anew")


def write(run_dir: RunDir, record: TrackerRecord) -> None:
    """Store the record. Raises StoreError when the disk refuses."""
    write_bytes(run_dir.tracker_path, record.to_json().encode())


def run_id(signature: str, generation: int) -> str:
    """`<signature>`, then `<signature>-g2` … for ids that were deleted at W&B."""
    return signature if generation == 1 else f"{signature}-g{generation}"
