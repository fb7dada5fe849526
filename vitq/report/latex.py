r"""The report as LaTeX: one `booktabs` table per model, ready for a paper, and one of all pairs of methods."""

from __future__ import annotations

import math
import re

import pandas as pd

from vitq.report import wording
from vitq.report.accuracy_table import Matrix, MatrixCell, matrices
from vitq.report.markdown import PAIR_HEAD, PAIRS_NOTE, pair_cells

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    wording.MINUS: "$-$", "±": r"$\pm$", "–": "--", "⁶": "$^6$", "≤": r"$\leq$",
}  # fmt: skip


def render(df: pd.DataFrame, pairs: pd.DataFrame | None = None) -> str:
    r"""LaTeX of a sweep's table (`df` from `table`) and of its pairs (from `pairwise`) where given; needs
    `\usepackage{booktabs, longtable}`."""
    tables = [_table(matrix) for matrix in matrices(df)]
    if pairs is not None and len(pairs):
        tables.append(_pairs(pairs))
    return f"% {wording.counts(df)}. Needs \\usepackage{{booktabs, longtable}}.\n" + "\n".join(tables)


def _pairs(pairs: pd.DataFrame) -> str:
    return "\n".join(
        [
            r"\begin{longtable}{lllllrrrr}",
            rf"\caption{{{escape(PAIRS_NOTE)}}}\label{{tab:vitq-pairs}}\\",
            r"\toprule",
            _line([escape(head) for head in PAIR_HEAD]),
            r"\midrule",
            r"\endhead",
            *(_line([escape(cell) for cell in pair_cells(row)]) for row in wording.with_data(pairs).to_dict("records")),
            r"\bottomrule",
            r"\end{longtable}",
            "",
        ]
    )


def _table(matrix: Matrix) -> str:
    columns = "l" + ("r" if matrix.with_calib else "") + "r" * len(matrix.bits)
    head = ["Method", *(["Images"] if matrix.with_calib else []), *map(escape, matrix.bits)]
    gap = [""] if matrix.with_calib else []
    body = []
    if not math.isnan(matrix.fp_top1) and matrix.bits:
        whole = rf"\multicolumn{{{len(matrix.bits)}}}{{c}}{{{matrix.fp_top1:.2f}}}"
        body += [_line(["Full precision", *gap, whole]), r"\midrule"]
    for row in matrix.rows:
        images = [str(row.calib)] if matrix.with_calib else []
        body.append(_line([escape(row.method), *images, *map(_cell, row.cells)]))
    body += [r"\midrule", _line(["Size, MB", *gap, *(escape(wording.size(span)) for span in matrix.sizes)])]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{escape(matrix.title)}. {escape(wording.caption(matrix))} {escape(wording.caution(matrix))}}}",
            rf"\label{{tab:vitq-{re.sub(r'[^A-Za-z0-9]+', '-', matrix.title).strip('-')}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _line(head),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _cell(cell: MatrixCell | None) -> str:
    if cell is None:
        return ""
    text = escape(wording.accuracy(cell))
    text = rf"\textbf{{{text}}}" if cell.best else text
    return rf"{text} {{\scriptsize({escape(change)})}}" if (change := wording.change(cell)) else text


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def escape(text: str) -> str:
    """Text with LaTeX's special characters made harmless."""
    return "".join(_SPECIAL.get(character, character) for character in text)
