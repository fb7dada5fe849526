"""The report as Markdown: reads well raw, and pastes into an issue."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from vitq.report import wording
from vitq.report.accuracy_table import Matrix, MatrixCell, fidelities, matrices
from vitq.report.answer import which_method
from vitq.report.comparison import belonging, verdict
from vitq.report.contents import Report
from vitq.report.effort import NOTE as EFFORT_NOTE
from vitq.report.effort import cells as effort_cells
from vitq.report.effort import efforts


def of_report(report: Report) -> str:
    """Markdown of a report: of each task the parts of `render`."""
    rendered = [(part.task, render(part.df, part.comparisons, part.pairs)) for part in report.parts]
    return "\n".join(f"## {task}\n\n{text}" if len(rendered) > 1 else text for task, text in rendered)


def render(df: pd.DataFrame, comparisons: pd.DataFrame | None = None, pairs: pd.DataFrame | None = None) -> str:
    """Markdown of a sweep's table (`df` from `table`), one method × bits table per model, unfinished runs with their
    reasons, and the comparisons where given: of all pairs (from `pairwise`), with the baseline (from `paired`)."""
    parts = [wording.counts(df) + "."]
    if pairs is not None and (answer := which_method(df, pairs)):
        parts.append("\n".join(f"- {_escape(line)}" for line in answer))
    for matrix in matrices(df):
        parts += [f"### {matrix.title}", wording.caption(matrix), _matrix(matrix)]
        if note := wording.caution(matrix):
            parts.append(note)
    for own in fidelities(df):
        parts += [f"### {own[0].model} on {own[0].data}, fidelity", wording.fidelity_caption(own), _fidelity(own)]
    if pairs is not None and len(pairs):
        rows = [pair_cells(row) for row in wording.with_data(pairs).to_dict("records")]
        parts += ["### Is A better than B here?", grid(PAIR_HEAD, rows, right_from=5), PAIRS_NOTE]
    if compared := efforts(df):
        parts += ["### Effort", grid(*effort_cells(compared), right_from=4), EFFORT_NOTE]
    if comparisons is not None and len(comparisons):
        parts += ["### Paired comparison", _paired(wording.with_data(comparisons)), PAIRED_NOTE]
    unfinished = wording.unfinished(df)
    if len(unfinished):
        rows = [[wording.where(r), f"`{r['signature']}`", r["state"], r["error"]] for _, r in unfinished.iterrows()]
        parts += ["### Not finished", grid(["run", "signature", "state", "reason"], rows)]
    return "\n\n".join(parts) + "\n"


PAIRED_NOTE = (
    "Difference: method minus baseline on the same images, percent points, with an interval from 10,000 paired "
    "bootstrap resamples, of the level in brackets, which belongs to p (Holm). "
    "Gained / lost: images that only the method / only the baseline has right. p: exact McNemar "
    "test; p (Holm): corrected for the number of comparisons in this table. Both speak of the choice of evaluation "
    "images, not of calibration seeds."
)


PAIR_HEAD = ("model", "bits", "A", "B", "verdict", "calib. images", "A − B [interval]", "seeds", "p", "p (Holm)")
PAIRS_NOTE = (
    "Every pair of methods on the same images and seeds: mean difference over the seeds in percent points, with an "
    "interval from a bootstrap over the images, of the level in brackets, which belongs to p (Holm). p: exact "
    "sign-flip test over the images; p (Holm): corrected for all pairs of this table; a difference counts when it is "
    "below 0.05."
)


def pair_cells(row: Mapping[Hashable, Any]) -> list[str]:
    """A row of `pairwise`, as text under PAIR_HEAD."""
    calib = "" if pd.isna(row["calib"]) else str(row["calib"])
    start = [str(row[key]) for key in ("model", "bits", "a", "b")]
    if row["note"]:
        return [*start, str(row["note"]), calib, "", "", "", ""]
    interval = f"{wording.signed(row['difference'])} {belonging(row)}"
    p_values = [wording.p_value(float(row[key])) for key in ("p", "p_holm")]
    return [*start, verdict(row), calib, interval, str(row["seeds"]), *p_values]


def _matrix(matrix: Matrix) -> str:
    head = ["method", *(["calib. images"] if matrix.with_calib else []), *matrix.bits, "s"]
    gap = [""] * (len(head) - len(matrix.bits) - 2)
    rows = []
    if not math.isnan(matrix.fp_top1):
        rows.append(["full precision", *gap, *[f"{matrix.fp_top1:.2f}"] * len(matrix.bits), ""])
    for row in matrix.rows:
        images = [str(row.calib)] if matrix.with_calib else []
        rows.append([row.method, *images, *map(_cell, row.cells), wording.seconds(row.seconds)])
    full = "" if math.isnan(matrix.fp_mb) else f" (full precision {wording.size((matrix.fp_mb, matrix.fp_mb))})"
    rows.append([f"size, MB{full}", *gap, *map(wording.size, matrix.sizes), ""])
    return grid(head, rows, right_from=1)


def _fidelity(own: Sequence[Matrix]) -> str:
    first = own[0]
    gap = ["calib. images"] if first.with_calib else []
    rows = []
    if not all(math.isnan(matrix.fp_top1) for matrix in own):
        full = " / ".join(wording.number(matrix.fp_top1) for matrix in own)
        rows.append(["full precision", *([""] if gap else []), *[full] * len(first.bits)])
    for row, cells in wording.fidelity_rows(own):
        texts = [" / ".join(f"**{text}**" if best else text for text, best in cell) for cell in cells]
        rows.append([row.method, *([str(row.calib)] if gap else []), *texts])
    return grid(["method", *gap, *first.bits], rows, right_from=1)


def _cell(cell: MatrixCell | None) -> str:
    if cell is None:
        return ""
    text = f"**{wording.accuracy(cell)}**" if cell.best else wording.accuracy(cell)
    return f"{text} ({change})" if (change := wording.change(cell)) else text


def _paired(comparisons: pd.DataFrame) -> str:
    head = [
        "model",
        "method − baseline",
        "bits",
        "calib. images",
        "seed",
        "difference [interval]",
        "gained / lost",
        "p",
        "p (Holm)",
    ]
    rows = []
    for _, r in comparisons.iterrows():
        start = [r["model"], f"{r['method']} − {r['baseline']}", r["bits"], str(r["calib"]), str(r["seed"])]
        if pd.isna(r["p"]):
            rows.append([*start, r["note"], "", "", ""])
            continue
        p_values = [wording.p_value(r[key]) for key in ("p", "p_holm")]
        interval = f"{wording.signed(r['difference'])} {belonging(r.to_dict())}"
        rows.append([*start, interval, f"{r['gained']} / {r['lost']}", *p_values])
    return grid(head, rows, right_from=3)


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], right_from: int | None = None) -> str:
    """A Markdown table, padded so that it lines up raw; columns from `right_from` on are right-aligned."""
    text = [[_escape(cell) for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[i]) for row in text)) for i in range(len(head))]
    right = [right_from is not None and i >= right_from for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return f"| {' | '.join(cells)} |"

    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
    return "\n".join([line(text[0]), line(rule), *map(line, text[1:])])


def _escape(text: str) -> str:
    text = str(text).replace("\\", "\\\\").replace("|", "\\|")
    return " ".join(re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text).split())
