"""The report's files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from vitq.errors import VitqError, unknown
from vitq.report import FORMATS, latex, markdown, results_page
from vitq.report.contents import Report
from vitq.store import Store
from vitq.store.atomic import write_bytes


def _html(report: Report) -> str:
    from vitq.report.page import page  # plotly and jinja2, for this format alone

    return page(report)


def _markdown(report: Report) -> str:
    title = f"# {report.name}\n\n{report.description}".rstrip()
    return f"{title}\n\n{markdown.of_report(report)}"


def _latex(report: Report) -> str:
    return "\n".join(latex.render(part.df) for part in report.parts)


def _plain(pairs: pd.DataFrame) -> pd.DataFrame:
    return pairs.drop(columns="outcomes")


Writer = Callable[[Report], str | bytes]
# The files of a format, the one that it is named for first. Pages of several sweeps share a folder.
_WRITERS: dict[str, dict[str, Writer]] = {
    "html": {"report.html": _html},
    "csv": {
        "report.csv": lambda report: report.df.to_csv(index=False),
        "pairs.csv": lambda report: _plain(report.pairs).to_csv(index=False),
    },
    "md": {"report.md": _markdown},
    "latex": {"report.tex": _latex},
    "latex-pairs": {"pairs.tex": lambda report: latex.pairs_table(report.pairs)},
    "parquet": {
        "report.parquet": lambda report: report.df.to_parquet(index=False),
        "pairs.parquet": lambda report: _plain(report.pairs).to_parquet(index=False),
    },
    "results": {"{sweep}.md": results_page.page},
}


def build(
    store: Store, sweeps: str | Sequence[str], formats: Sequence[str] = FORMATS, out: Path | None = None
) -> dict[str, Path]:
    """Write the report of a sweep, or one of several, in each format into `out`, default `<root>/sweeps/<sweep>/`, of
    several `<root>/sweeps/<sweep>+<sweep>/`.

    formats: html, csv, md, latex, parquet; latex-pairs (every pair, over several pages); results (a page for documents,
    `<sweep>.md`). Returns format → file; csv and parquet have a second one beside it, `pairs`, with every pair of
    methods (see `pairwise`). Failed and pending runs are part of the report.
    Raises VitqError for an unknown format, StoreError for an unknown sweep or a folder that cannot be written.
    """
    for name in formats:
        if name not in _WRITERS:
            raise VitqError(unknown("report format", name, _WRITERS, key="--format"))
    report = Report.of(store, sweeps)
    folder = store.sweep_folder(report.name) if out is None else Path(out)
    report = replace(report, folder=folder)
    files: dict[str, Path] = {}
    for name in dict.fromkeys(formats):
        for filename, writer in _WRITERS[name].items():
            content = writer(report)
            path = folder / filename.format(sweep=report.name)
            write_bytes(path, content.encode() if isinstance(content, str) else content)
            files.setdefault(name, path)
    return files
