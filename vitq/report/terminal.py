"""The report in a terminal."""

from __future__ import annotations

import math

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vitq.report import wording
from vitq.report.accuracy_table import Matrix, MatrixCell, matrices


def rich_table(df: pd.DataFrame) -> RenderableType:
    """A sweep's table (`df` from `table`) for rich's console: method × bits per model, then what is not finished."""
    parts: list[RenderableType] = []
    for matrix in matrices(df):
        notes = f"{wording.caption(matrix)} {wording.caution(matrix)}".rstrip()
        parts += [_matrix(matrix), Text(notes, style="dim"), Text()]
    parts.append(Text(wording.counts(df)))
    for _, row in wording.unfinished(df).iterrows():
        style = "red" if row["state"] in ("failed", "unreadable") else "dim"
        reason = f": {row['error']}" if row["error"] else ""
        parts.append(Text(f"  {row['state']}  {wording.where(row)}{reason}  ({row['signature']})", style=style))
    return Group(*parts)


def _matrix(matrix: Matrix) -> Table:
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left")
    out.title = Text(matrix.title, style="bold", no_wrap=True)
    out.add_column("method", min_width=14, overflow="fold")
    if matrix.with_calib:
        out.add_column("calib. images", justify="right")
    for i, label in enumerate(matrix.bits):
        # In a narrow terminal the change goes below the accuracy; a number is never cut.
        texts = [wording.accuracy(cell) for row in matrix.rows if (cell := row.cells[i])] + [
            wording.size(matrix.sizes[i])
        ]
        out.add_column(label, justify="right", min_width=max(map(len, [*texts, "(-12.34)"])), overflow="fold")
    out.add_column("s", justify="right", min_width=4, no_wrap=True)
    gap = [""] if matrix.with_calib else []
    if not math.isnan(matrix.fp_top1):
        out.add_row("full precision", *gap, *[f"{matrix.fp_top1:.2f}"] * len(matrix.bits), "", end_section=True)
    for i, row in enumerate(matrix.rows):
        images = [str(row.calib)] if matrix.with_calib else []
        cells: list[RenderableType] = [Text(row.method), *images, *map(_cell, row.cells), wording.seconds(row.seconds)]
        out.add_row(*cells, end_section=i == len(matrix.rows) - 1)
    full = "" if math.isnan(matrix.fp_mb) else f" (fp {wording.size((matrix.fp_mb, matrix.fp_mb))})"
    out.add_row(f"size, MB{full}", *gap, *map(wording.size, matrix.sizes), "", style="dim")
    return out


def _cell(cell: MatrixCell | None) -> Text:
    if cell is None:
        return Text("")
    style = "bold green" if cell.best else "red" if math.isnan(cell.top1) and cell.failed else ""
    text = Text(wording.accuracy(cell), style=style)
    if change := wording.change(cell):
        text.append(f" ({change})", style="dim")
    return text
