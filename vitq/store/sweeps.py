"""A sweep on disk: a name and the signatures of its runs. A run belongs to every sweep that lists it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from vitq.store.record import StoredRecord, Timestamp, utc_now


class SweepRecord(StoredRecord):
    """What a sweep consists of.

    signatures: in the order of the plan. baseline: name of the method that others are compared with.
    command: what was typed. axes: swept key → its values, as text. launcher: the `launcher` section of its configs;
    None in records of earlier versions. labels: signature → what the plan calls the run, which names all that is swept;
    empty in records of earlier versions. options: signature → whose the options of its recipe are. budget_seconds: of
    the steps of each recipe.
    """

    name: str
    description: str = ""
    signatures: list[str]
    baseline: str | None = None
    command: str = ""
    created_at: Timestamp = Field(default_factory=utc_now)
    axes: dict[str, list[str]] = Field(default_factory=dict)
    launcher: dict[str, Any] | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    options: dict[str, str] = Field(default_factory=dict)
    budget_seconds: float | None = None
