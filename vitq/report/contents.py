"""What all formats of one report draw from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from vitq.report.comparison import pairwise
from vitq.report.paired_test import paired
from vitq.report.runs_table import records_of, table
from vitq.store import Store, SweepRecord


@dataclass(frozen=True)
class Report:
    """The records of a sweep, or of several, and their table `df`, one row a run. folder: where its files will lie, for
    links to the runs; None: nowhere."""

    store: Store
    records: list[SweepRecord]
    df: pd.DataFrame
    folder: Path | None = None

    @classmethod
    def of(cls, store: Store, sweeps: str | Sequence[str]) -> Report:
        """Raises StoreError for an unknown sweep."""
        return cls(store, records_of(store, sweeps), table(store, sweeps))

    @property
    def name(self) -> str:
        """`demo`, or `demo+ablation`."""
        return "+".join(record.name for record in self.records)

    @property
    def description(self) -> str:
        """What the sweeps say of themselves; of several each with its name."""
        if len(self.records) == 1:
            return self.records[0].description
        return "; ".join(f"{record.name}: {record.description}" for record in self.records if record.description)

    @property
    def baseline(self) -> str | None:
        """The one baseline that the sweeps name; None where they name none, or several."""
        named = {record.baseline for record in self.records} - {None}
        return named.pop() if len(named) == 1 else None

    @property
    def task(self) -> str:
        """The first task of its runs; '' where none can be read."""
        return next((task for task in self.df["task"] if task != "?"), "")

    @cached_property
    def parts(self) -> list[Report]:
        """A report for each task: its figures share no table and no correction with those of another one."""
        tasks = [task for task in dict.fromkeys(self.df["task"]) if task != "?"]
        if len(tasks) < 2:
            return [self]
        # Runs whose config cannot be read belong to some task; they are listed once.
        own = [[task, "?"] if task == tasks[0] else [task] for task in tasks]
        return [replace(self, df=self.df[self.df["task"].isin(names)]) for names in own]

    @cached_property
    def comparisons(self) -> pd.DataFrame | None:
        """Paired comparisons with the baseline, corrected for those of this report; None where there is none."""
        return paired(self.store, self.df, self.baseline) if self.baseline else None

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Every pair of methods under equal conditions, corrected for all pairs of its task."""
        if len(self.parts) == 1:
            return pairwise(self.store, self.df)
        return pd.concat([part.pairs for part in self.parts], ignore_index=True)
