r"""The report as LaTeX: one `booktabs` table per model, ready for a paper."""

from __future__ import annotations

import math
import re

import pandas as pd

from vitq.report import words
from vitq.report.matrix import Cell, Matrix, matrices

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    words.MINUS: "$-$", "±": r"$\pm$", "–": "--", "⁶": "$^6$",
}  # fmt: skip


def render(df: pd.DataFrame) -> str:
    r"""LaTeX of a sweep's table (`df` from `table`); needs `\usepackage{booktabs}`."""
    tables = "\n".join(_table(matrix) for matrix in matrices(df))
    return f"% {words.counts(df)}. Needs \\usepackage{{booktabs}}.\n{tables}"


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
    body += [r"\midrule", _line(["Size, MB", *gap, *(escape(words.size(span)) for span in matrix.sizes)])]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{escape(matrix.title)}. {escape(words.caption(matrix))} {escape(words.caution(matrix))}}}",
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


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    text = escape(words.accuracy(cell))
    text = rf"\textbf{{{text}}}" if cell.best else text
    return rf"{text} {{\scriptsize({escape(change)})}}" if (change := words.change(cell)) else text


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def escape(text: str) -> str:
    """Text with LaTeX's special characters made harmless."""
    return "".join(_SPECIAL.get(character, character) for character in text)
