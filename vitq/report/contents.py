"""What all formats of one report draw from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from vitq.report.comparison import pairwise
from vitq.report.paired_test import paired
from vitq.report.runs_table import table
from vitq.store import Store, SweepRecord


@dataclass(frozen=True)
class Report:
    """A sweep's record and its table `df`, one row a run."""

    store: Store
    record: SweepRecord
    df: pd.DataFrame

    @classmethod
    def of(cls, store: Store, sweep: str) -> Report:
        """Raises StoreError for an unknown sweep."""
        return cls(store, store.read_sweep(sweep), table(store, sweep))

    @cached_property
    def comparisons(self) -> pd.DataFrame | None:
        """Paired comparisons with the sweep's baseline; None when it names none."""
        return paired(self.store, self.df, self.record.baseline) if self.record.baseline else None

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Every pair of methods under equal conditions."""
        return pairwise(self.store, self.df)
