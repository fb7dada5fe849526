"""The state of a run as it is written while it is under way: the schema of `status.json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from vitq.store.record import Count, StoredRecord, Timestamp, utc_now

State = Literal["planned", "running", "done", "failed", "interrupted"]


class Status(StoredRecord):
    """The state that a run has written last. Only a valid result means that it is done.

    attempt: 1 for the first execution, counting up with each retry.
    stage, done, total, note: the current stage and its units, begun at stage_at.
    error: one line; traceback: the whole text. timed_out: time limits ended it.
    code: what the run was planned with (`vitq.job.provenance.code`). warnings: what its plan had to say.
    """

    state: State
    attempt: Annotated[int, Field(ge=1)] = 1
    stage: str = ""
    done: Count = 0
    total: Count | None = None
    note: str = ""
    started_at: Timestamp | None = None
    stage_at: Timestamp | None = None
    updated_at: Timestamp = Field(default_factory=utc_now)
    pid: int | None = None
    host: str | None = None
    error: str | None = None
    traceback: str | None = None
    timed_out: bool = False
    code: dict[str, str | None] | None = None
    warnings: list[str] = Field(default_factory=list)

    @field_validator("error")
    @classmethod
    def _one_line(cls, error: str | None) -> str | None:
        return None if error is None else " ".join(error.split())
