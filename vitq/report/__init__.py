"""Reports of a sweep, from `runs_dir` alone. Pandas and plotly are imported on first use, not with this package."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitq.report.accuracy_table import summary
    from vitq.report.markdown import render
    from vitq.report.runs_table import table
    from vitq.report.terminal import rich_table
    from vitq.report.write import build

__all__ = ["ALL_FORMATS", "FORMATS", "build", "render", "rich_table", "summary", "table"]

FORMATS = ("html", "csv", "md", "latex", "parquet")  # written where none is named
ALL_FORMATS = (*FORMATS, "latex-pairs", "results")
_MODULES = {
    "build": "write",
    "render": "markdown",
    "rich_table": "terminal",
    "summary": "accuracy_table",
    "table": "runs_table",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
