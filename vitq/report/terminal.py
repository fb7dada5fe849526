"""The report in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vitq.config.labels import star_note
from vitq.report import wording
from vitq.report.accuracy_table import Matrix, MatrixCell, fidelities, matrices


def rich_table(df: pd.DataFrame) -> RenderableType:
    """A sweep's table (`df` from `table`) for rich's console: method × bits per model, of detectors their
    fidelity below, then what is not finished."""
    parts: list[RenderableType] = []
    for matrix in matrices(df):
        notes = f"{wording.caption(matrix)} {wording.caution(matrix)}".rstrip()
        parts += [_title(matrix.title), _matrix(matrix), Text(notes, style="dim"), Text()]
    for own in fidelities(df):
        title = _title(f"{own[0].model} on {own[0].data}, fidelity")
        parts += [title, _fidelity(own), Text(wording.fidelity_caption(own), style="dim"), Text()]
    if note := star_note(df["bits"]):
        parts += [Text(note, style="dim"), Text()]
    parts.append(Text(wording.counts(df)))
    for _, row in wording.unfinished(df).iterrows():
        style = "red" if row["state"] in ("failed", "unreadable") else "dim"
        reason = f": {row['error']}" if row["error"] else ""
        parts.append(Text(f"  {row['state']}  {wording.where(row)}{reason}  ({row['signature']})", style=style))
    return Group(*parts)


def _matrix(matrix: Matrix) -> Table:
    out = _empty(matrix.with_calib)
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


def _title(text: str) -> Text:
    return Text(text, style="bold")  # above the table and not in it: one narrower than its title would cut it


def _empty(with_calib: bool) -> Table:
    """A table with the columns that say what a row is."""
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    out.add_column("method", min_width=14, overflow="fold")
    if with_calib:
        out.add_column("calib. images", justify="right")
    return out


def _fidelity(own: Sequence[Matrix]) -> Table:
    first, rows = own[0], wording.fidelity_rows(own)
    out = _empty(first.with_calib)
    full = [] if all(math.isnan(m.fp_top1) for m in own) else [wording.number(m.fp_top1) for m in own]
    for i, label in enumerate(first.bits):
        # In a narrow terminal the fidelity of masks goes below that of boxes; a number is never cut.
        texts = [*full, *(text for _, cells in rows for text, _ in cells[i])]
        out.add_column(label, justify="right", min_width=max(len(label), *(len(text) + 2 for text in texts)))
    if full:
        gap = [""] if first.with_calib else []
        out.add_row("full precision", *gap, *[" / ".join(full)] * len(first.bits), end_section=True)
    for row, cells in rows:
        images = [str(row.calib)] if first.with_calib else []
        pairs = [Text(" / ").join(Text(text, "bold green" if best else "") for text, best in cell) for cell in cells]
        out.add_row(Text(row.method), *images, *pairs)
    return out


def _cell(cell: MatrixCell | None) -> Text:
    if cell is None:
        return Text("")
    style = "bold green" if cell.best else "red" if math.isnan(cell.top1) and cell.failed else ""
    text = Text(wording.accuracy(cell), style=style)
    if change := wording.change(cell):
        text.append(f" ({change})", style="dim")
    return text
