"""A sweep on disk: a name and the signatures of its runs. A run belongs to every sweep that lists it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from vitq.config.sweep import NAME
from vitq.errors import StoreError, unknown
from vitq.store.atomic import write_bytes
from vitq.store.files import read_bytes, read_record
from vitq.store.records import Record, Timestamp, utc_now


class SweepRecord(Record):
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


class Sweeps:
    """The records under `<root>/sweeps`. Nothing is lost: a record that is replaced by a different one goes to
    `history/<name>-<n>.json` first."""

    def __init__(self, path: Path):
        self.path = path

    def record_path(self, name: str) -> Path:
        """File of a sweep's record. Raises StoreError when the name cannot be a file name."""
        if not NAME.fullmatch(name):
            raise StoreError(
                f"sweep name {name!r} cannot be a file name; valid: up to 100 letters, digits and any of '_.+=, -', "
                "starting with a letter or digit, not ending in '.json', and not 'history'",
                "sweep",
                name,
            )
        return self.path / f"{name}.json"

    def write(self, record: SweepRecord, grown: bool = False) -> None:
        """Store a record. One that says the same as the stored one (creation time aside) changes nothing.

        grown: it says all that the stored one says, of more runs, so nothing has to be kept of that.
        """
        path = self.record_path(record.name)
        old = read_bytes(path)
        if old is not None:
            if _same(path, record):
                return
            if not grown:
                self._archive(record.name, old)
        write_bytes(path, record.to_json().encode())

    def read(self, name: str) -> SweepRecord:
        """A sweep's record. Raises StoreError when there is none of that name, or when it is unreadable."""
        path = self.record_path(name)
        remedy = (
            f"an earlier version may lie in {self.path / 'history'}; or move the file away and start the sweep again"
        )
        record = read_record(path, SweepRecord, remedy)
        if record is None:
            where = f"No sweep of that name was started with {self.path.parent}; start it with `vitq sweep {name}`."
            if not self.names():
                raise StoreError(f"unknown sweep {name!r}; there are none yet. {where}", "sweep", name)
            raise StoreError(unknown("sweep", name, self.names(), where, key="sweep"))
        return record

    def names(self) -> list[str]:
        """Names of all sweeps, sorted."""
        return sorted(path.stem for path in self.path.glob("*.json") if NAME.fullmatch(path.stem) and path.is_file())

    def folder(self, name: str) -> Path:
        """Where the reports of a sweep go."""
        return self.record_path(name).with_suffix("")

    def _archive(self, name: str, old: bytes) -> None:
        history = self.path / "history"
        number = 1
        while (kept := read_bytes(history / f"{name}-{number}.json")) is not None:
            if kept == old:  # archived by a start that died before it wrote the new record
                return
            number += 1
        write_bytes(history / f"{name}-{number}.json", old)


def _same(path: Path, record: SweepRecord) -> bool:
    try:
        stored = read_record(path, SweepRecord, "")
    except StoreError:
        return False  # unreadable: it is archived as it is, and replaced
    return stored is not None and stored.model_copy(update={"created_at": record.created_at}) == record
