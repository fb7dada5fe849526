"""Reports of a sweep, from `runs_dir` alone. Pandas and plotly are imported on first use, not with this package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from vitq.store import Store

FORMATS = ("html", "csv", "md", "latex", "parquet")  # written where none is named
ALL_FORMATS = (*FORMATS, "latex-pairs", "results")


def table(store: Store, sweep: str) -> pd.DataFrame:
    """One row per run of a sweep, in the order of the plan; see `vitq.report.runs_table.table`."""
    from vitq.report import runs_table

    return runs_table.table(store, sweep)


def summary(df: pd.DataFrame) -> pd.DataFrame:
    """Mean ± std over seeds per model × data × method × bits × calib; see `vitq.report.accuracy_table.summary`."""
    from vitq.report import accuracy_table

    return accuracy_table.summary(df)


def render(df: pd.DataFrame) -> str:
    """A table as Markdown; see `vitq.report.markdown.render`."""
    from vitq.report import markdown

    return markdown.render(df)


def rich_table(df: pd.DataFrame) -> RenderableType:
    """A table for the terminal; see `vitq.report.terminal.rich_table`."""
    from vitq.report import terminal

    return terminal.rich_table(df)


def build(store: Store, sweep: str, formats: Sequence[str] = FORMATS, out: Path | None = None) -> dict[str, Path]:
    """Write the report of a sweep; see `vitq.report.write.build`."""
    from vitq.report import write

    return write.build(store, sweep, formats, out)
