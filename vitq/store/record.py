"""What all records have in common, and the types of their fields."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def utc_now() -> str:
    """The present as ISO-8601 in UTC, to the millisecond: `2026-11-20T12:00:00.000+00:00`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _timestamp(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"time {text!r} has no time zone; use vitq.store.record.utc_now()")
    return text


Timestamp = Annotated[str, AfterValidator(_timestamp)]
Count = Annotated[int, Field(ge=0)]


class StoredRecord(BaseModel):
    """Base of all records: frozen, and a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """Standard JSON (no NaN), keys sorted, one trailing newline: equal records give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=2, allow_nan=False) + "\n"
