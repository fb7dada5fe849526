"""The report in a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
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
        drawn = _Fitting(len(matrix.bits), partial(_matrix, matrix))
        parts += [_title(matrix.title), drawn, Text(notes, style="dim"), Text()]
    for own in fidelities(df):
        title = _title(f"{own[0].model} on {own[0].data}, fidelity")
        drawn = _Fitting(len(own[0].bits), partial(_fidelity, own))
        parts += [title, drawn, Text(wording.fidelity_caption(own), style="dim"), Text()]
    if note := star_note(df["bits"]):
        parts += [Text(note, style="dim"), Text()]
    parts.append(Text(wording.counts(df)))
    for _, row in wording.unfinished(df).iterrows():
        style = "red" if row["state"] in ("failed", "unreadable") else "dim"
        reason = f": {row['error']}" if row["error"] else ""
        parts.append(Text(f"  {row['state']}  {wording.where(row)}{reason}  ({row['signature']})", style=style))
    return Group(*parts)


@dataclass(frozen=True)
class _Fitting:
    """A table of `count` bit-widths; as many tables as fit below each other where the terminal is narrower.

    draw: the table of some of them, by their numbers.
    """

    count: int
    draw: Callable[[Sequence[int]], Table]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        tables = [self.draw(range(self.count))]
        for parts in range(2, self.count + 1):
            # Of each column a space and rich's own gap, and the edges.
            needed = (sum((c.min_width or 0) + 2 for c in table.columns) for table in tables)
            if max(needed) <= options.max_width:
                break
            size = -(-self.count // parts)
            starts = range(0, self.count, size)
            tables = [self.draw(range(start, min(start + size, self.count))) for start in starts]
        yield from tables


def _matrix(matrix: Matrix, bits: Sequence[int]) -> Table:
    out = _empty(matrix.with_calib)
    for i in bits:
        # In a narrow terminal the change goes below the accuracy; a number is never cut.
        texts = [wording.accuracy(cell) for row in matrix.rows if (cell := row.cells[i])] + [
            wording.size(matrix.sizes[i])
        ]
        width = max(map(len, [*texts, "(-12.34)"]))
        out.add_column(matrix.bits[i], justify="right", min_width=width, overflow="fold")
    out.add_column("s", justify="right", min_width=4, no_wrap=True)
    gap = [""] if matrix.with_calib else []
    if not math.isnan(matrix.fp_top1):
        out.add_row("full precision", *gap, *[f"{matrix.fp_top1:.2f}"] * len(bits), "", end_section=True)
    for n, row in enumerate(matrix.rows, 1):
        images = [str(row.calib)] if matrix.with_calib else []
        shown = [_cell(row.cells[i]) for i in bits]
        cells: list[RenderableType] = [Text(row.method), *images, *shown, wording.seconds(row.seconds)]
        out.add_row(*cells, end_section=n == len(matrix.rows))
    full = "" if math.isnan(matrix.fp_mb) else f" (fp {wording.size((matrix.fp_mb, matrix.fp_mb))})"
    out.add_row(f"size, MB{full}", *gap, *(wording.size(matrix.sizes[i]) for i in bits), "", style="dim")
    return out


def _title(text: str) -> Text:
    return Text(text, style="bold")  # above the table and not in it: one narrower than its title would cut it


def _empty(with_calib: bool) -> Table:
    """A table with the columns that say what a row is."""
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    out.add_column("method", min_width=14, overflow="fold")
    if with_calib:
        out.add_column("calib. images", justify="right", min_width=len("calib."))
    return out


def _fidelity(own: Sequence[Matrix], bits: Sequence[int]) -> Table:
    first, rows = own[0], wording.fidelity_rows(own)
    out = _empty(first.with_calib)
    full = [] if all(math.isnan(m.fp_top1) for m in own) else [wording.number(m.fp_top1) for m in own]
    for i in bits:
        # In a narrow terminal the fidelity of masks goes below that of boxes; a number is never cut.
        texts = [*full, *(text for _, cells in rows for text, _ in cells[i])]
        width = max(len(first.bits[i]), *(len(text) + 2 for text in texts))
        out.add_column(first.bits[i], justify="right", min_width=width)
    if full:
        gap = [""] if first.with_calib else []
        out.add_row("full precision", *gap, *[" / ".join(full)] * len(bits), end_section=True)
    for row, cells in rows:
        images = [str(row.calib)] if first.with_calib else []
        pairs = [Text(" / ").join(Text(text, "bold green" if best else "") for text, best in cells[i]) for i in bits]
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
