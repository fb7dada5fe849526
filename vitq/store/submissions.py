"""What was handed to a scheduler: which job executes which runs, written before it is submitted."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from vitq.store.atomic import remove_abandoned, write_bytes
from vitq.store.files import read_hint, read_record, remove
from vitq.store.record import Count, StoredRecord, Timestamp, utc_now


class Submission(StoredRecord):
    """One job array. token: its name for us, and in the scheduler's comment. allocations: signatures of each element.

    job: the scheduler's id, None until it is known: whoever submitted died meanwhile, or the scheduler refused.
    """

    token: str
    sweep: str | None = None
    allocations: list[list[str]]
    job: str | None = None
    command: list[str]
    max_retries: Count
    max_timeouts: Count
    created_at: Timestamp = Field(default_factory=utc_now)


class Tries(StoredRecord):
    """What went wrong with one element of an array so far. deaths: of processes, by the run that they were at."""

    timeouts: Count = 0
    deaths: dict[str, int] = Field(default_factory=dict)


class Submissions:
    """The folders under `<runs_dir>/slurm`, one for each submission: its record, its script, its logs."""

    def __init__(self, root: Path):
        self.path = root / "slurm"

    def new_token(self) -> str:
        """A random name; it is part of no signature."""
        return uuid.uuid4().hex[:12]

    def folder(self, token: str) -> Path:
        """Where everything of a submission lies."""
        return self.path / token

    def log_path(self, token: str, index: int) -> Path:
        """Output of one element, all its attempts in order."""
        return self.folder(token) / f"{index}.log"

    def write(self, submission: Submission) -> None:
        """Store the record. Raises StoreError."""
        write_bytes(self._record(submission.token), submission.to_json().encode())

    def read(self, token: str) -> Submission | None:
        """The record, None when there is none. Raises StoreError when it is unreadable."""
        remedy = "move its folder away; runs without a result are submitted again by the same command"
        return read_record(self._record(token), Submission, remedy)

    def remove(self, token: str) -> None:
        """Forget a submission, with its logs. Raises StoreError when the disk refuses."""
        remove(self.folder(token))

    def all(self) -> list[Submission]:
        """All readable records, in the order in which they were made; what cannot be read is submitted anew."""
        stored = (read_hint(path, Submission) for path in self.path.glob("*/submission.json"))
        return sorted(filter(None, stored), key=lambda submission: submission.created_at)

    def write_tries(self, token: str, index: int, tries: Tries) -> None:
        """Store what went wrong with an element. Raises StoreError."""
        write_bytes(self._tries(token, index), json.dumps(tries.model_dump()).encode())

    def read_tries(self, token: str, index: int) -> Tries:
        """What went wrong with an element so far; nothing where nothing readable is stored."""
        return read_hint(self._tries(token, index), Tries) or Tries()

    def tidy(self) -> None:
        """Remove temporary files of dead processes: no later write in the folder of a job would."""
        for folder in self.path.glob("*"):
            with suppress(FileNotFoundError, NotADirectoryError):  # removed meanwhile; not a folder
                remove_abandoned(folder)

    def _record(self, token: str) -> Path:
        return self.folder(token) / "submission.json"

    def _tries(self, token: str, index: int) -> Path:
        return self.folder(token) / f"{index}.json"
