r"""The report as LaTeX: one table over all models that fits a two-column paper; all pairs only when asked for."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from vitq.report import wording
from vitq.report.accuracy_table import FIDELITIES, Matrix, MatrixCell, Row, bits_order, fidelities, matrices
from vitq.report.display_names import method_name, model_name
from vitq.report.markdown import PAIR_HEAD, PAIRS_NOTE, pair_cells

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    wording.MINUS: "$-$", "±": r"$\pm$", "–": "--", "⁶": "$^6$", "≤": r"$\leq$", "−": "$-$", "…": r"\ldots{}",
    "‖": r"$\|$", "√": r"$\surd$", "×": r"$\times$", "α": r"$\alpha$", "β": r"$\beta$", "λ": r"$\lambda$",
}  # fmt: skip
# Points of a column and of a page of a two-column article at 10 points, and of what stands in them at \small.
_COLUMN, _PAGE, _LETTER, _GAP = 225.0, 460.0, 4.7, 6.0
# Points below which names of methods are not broken any further.
_NAME = 60.0
_MARKS = {"true": r"\checkmark", "false": r"$\times$", "none": "--"}


def render(df: pd.DataFrame) -> str:
    r"""LaTeX of a sweep's table (`df` from `table`); needs `\usepackage{array, booktabs, amssymb}`.

    One model: methods × bits. Several: rows by bits, a column for each model. Keys in which variants of one method
    differ are columns, with ✓ and × where they are switches. A `table*` where it is wider than a column; models that
    are wider together than a page are several tables. The fidelity of detectors is a table of its own.
    """
    near = [matrix for own in fidelities(df) for matrix in own]
    head = f"% {wording.counts(df)}. Needs \\usepackage{{array, booktabs, amssymb}}.\n"
    return head + "\n".join([*_tables(matrices(df), "tab:vitq"), *_tables(near, "tab:vitq-fidelity")])


def pairs_table(pairs: pd.DataFrame) -> str:
    r"""LaTeX of every pair of methods (from `pairwise`), over as many pages as it needs; needs
    `\usepackage{booktabs, longtable}` and one column."""
    rows = [_line([escape(cell) for cell in pair_cells(row)]) for row in wording.with_data(pairs).to_dict("records")]
    caption = rf"\caption{{{escape(PAIRS_NOTE)}}}\label{{tab:vitq-pairs}}\\"
    lines = [r"\begin{longtable}{lllllrrrrr}", caption, r"\toprule", _line([escape(head) for head in PAIR_HEAD])]
    return "\n".join([*lines, r"\midrule", r"\endhead", *rows, r"\bottomrule", r"\end{longtable}", ""])


@dataclass(frozen=True)
class _Name:
    """A row's method: what is printed, and the keys in which it differs from its variants."""

    text: str
    keys: dict[str, str]


def _tables(tables: Sequence[Matrix], anchor: str) -> list[str]:
    """As few tables as fit, of equally many models each; their labels: `anchor`, `anchor-2` …"""
    models = [list(same) for _, same in itertools.groupby(tables, lambda matrix: (matrix.model, matrix.data))]
    drawn: list[tuple[str, bool]] = []
    for parts in range(1, len(models) + 1) if any(matrix.rows for matrix in tables) else ():
        size = -(-len(models) // parts)
        starts = range(0, len(models), size)
        labels = [f"{anchor}-{n}" if n > 1 else anchor for n in range(1, len(starts) + 1)]
        some = [[matrix for model in models[start : start + size] for matrix in model] for start in starts]
        drawn = [_table(tables, label) for tables, label in zip(some, labels, strict=True)]
        if all(fits for _, fits in drawn):
            break
    return [text for text, _ in drawn]


def _table(tables: Sequence[Matrix], anchor: str) -> tuple[str, bool]:
    """The table, and whether a page has room for it."""
    names = _names(list(dict.fromkeys(row.method for matrix in tables for row in matrix.rows)))
    keys = list(dict.fromkeys(key for name in names.values() for key in name.keys))
    with_calib = len({row.calib for matrix in tables for row in matrix.rows}) > 1
    single = len(tables) == 1
    bits = sorted({label for matrix in tables for label in matrix.bits}, key=bits_order)
    titles = [_title(matrix, tables) for matrix in tables]
    scored = len({matrix.score for matrix in tables}) > 1  # boxes and masks: a column for each, below the model
    values = bits if single else list(map(_form, tables)) if scored else titles
    over = titles if scored and len(set(titles)) > 1 else []
    head = [*([] if single else ["W/A"]), "Method", *map(_key_name, keys), *(["Images"] if with_calib else []), *values]

    def line(row: Row, first: list[str], cells: list[MatrixCell | None]) -> list[str]:
        name = names[row.method]
        marks = [_mark(name.keys.get(key)) for key in keys]
        images = [str(row.calib or "")] if with_calib else []
        return [*first, escape(name.text), *marks, *images, *map(_cell, cells)]

    before = len(head) - len(values)
    full = [f"{matrix.fp_top1:.2f}" if not math.isnan(matrix.fp_top1) else "" for matrix in tables]
    body: list[list[str]] = []
    if any(full) and bits:
        first = ["Full precision"] if single else ["32/32", "Full precision"]
        body.append([*first, *[""] * (before - len(first)), *(full * len(bits) if single else full)])
    groups: list[list[list[str]]] = []
    if single:
        (matrix,) = tables
        groups.append([line(row, [], [_of(matrix, row, label) for label in bits]) for row in matrix.rows])
    else:
        for label in bits:
            known = {(row.method, row.calib): row for matrix in tables for row in matrix.rows}
            group: list[list[str]] = []
            for row in known.values():
                cells = [_like(matrix, row, label) for matrix in tables]
                if any(cells):
                    group.append(line(row, [escape(_widths(label)) if not group else ""], cells))
            groups.append(group)
    halves = [[""] * before + [title[: -(-len(title) // over.count(title))] for title in over]] if over else []
    rows = [*body, *(cells for group in groups for cells in group)]
    wide, name_width, fits = _fit(head, [*halves, *rows], 0 if single else 1)
    name = "l" if name_width is None else rf">{{\raggedright\arraybackslash}}p{{{name_width:.0f}pt}}"
    columns = ("" if single else "l") + name + "c" * len(keys) + ("r" if with_calib else "") + "r" * len(values)
    environment = "table*" if wide else "table"
    text = "\n".join(
        [
            rf"\begin{{{environment}}}[t]",
            r"\centering\small\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escape(_caption(tables))}}}",
            rf"\label{{{anchor}}}",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            *_over(over, before),
            _line([escape(text) for text in head]),
            r"\midrule",
            *(_line(cells) for cells in body),
            *([r"\midrule"] if body else []),
            ("\n\\midrule\n").join("\n".join(map(_line, group)) for group in groups),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\end{{{environment}}}",
            "",
        ]
    )
    return text, fits


def _over(titles: Sequence[str], before: int) -> list[str]:
    """The line above the heads, and rules below it, where neighbours share a title; none without titles."""
    runs = [(title, len(list(same))) for title, same in itertools.groupby(titles)]
    ends = list(itertools.accumulate((count for _, count in runs), initial=before))
    spans = [rf"\multicolumn{{{count}}}{{c}}{{{escape(title)}}}" for title, count in runs]
    rules = [rf"\cmidrule(lr){{{start + 1}-{end}}}" for start, end in itertools.pairwise(ends)]
    return [_line([*[""] * before, *spans]), "".join(rules)] if runs else []


def _names(methods: Sequence[str]) -> dict[str, _Name]:
    """Label of a method → its name. Keys in brackets become columns where one method alone has variants."""
    split: dict[str, tuple[str, dict[str, str]]] = {}
    for label in methods:
        match = re.fullmatch(r"(\S+) \((\S+=.*)\)", label)
        parts = re.split(r", (?=[\w.]+=)", match[2]) if match else []
        split[label] = (match[1], dict(part.split("=", 1) for part in parts)) if match else (label, {})
    varied = {name for name, keys in split.values() if keys}
    if len(varied) > 1:  # variants of several methods: their keys would be columns that are mostly empty
        return {
            label: _Name(" ".join([method_name(name), *_brackets(keys)]), {}) for label, (name, keys) in split.items()
        }
    return {label: _Name(method_name(name), keys) for label, (name, keys) in split.items()}


def _brackets(keys: dict[str, str]) -> list[str]:
    return [f"({', '.join(f'{_key_name(key)}={value}' for key, value in keys.items())})"] if keys else []


def _key_name(key: str) -> str:
    """`steps.stage1.enabled` → `stage1`, `kinds.probs.quantizer` → `probs quantizer`."""
    plain = re.sub(r"^(method\.)?(steps|kinds)\.|\.enabled$|\.options(?=\.)", "", key)
    return plain.replace(".", " ")


def _mark(value: str | None) -> str:
    return "" if value is None else _MARKS.get(value) or escape(value)


def _title(matrix: Matrix, tables: Sequence[Matrix]) -> str:
    several = len({other.data for other in tables}) > 1
    return f"{model_name(matrix.model)}, {matrix.data}" if several else model_name(matrix.model)


def _form(matrix: Matrix) -> str:
    """Head of a column of one score: of fidelity, which the caption names, `box` or `mask`."""
    return matrix.score.removeprefix("fidelity ")


def _is_fidelity(tables: Sequence[Matrix]) -> bool:
    return tables[0].score in FIDELITIES


def _widths(label: str) -> str:
    """`W4A4` → `4/4`; others as they are."""
    match = re.fullmatch(r"W(\d+)A(\d+)", label)
    return f"{match[1]}/{match[2]}" if match else label


def _of(matrix: Matrix, row: Row, label: str) -> MatrixCell | None:
    return row.cells[matrix.bits.index(label)] if label in matrix.bits else None


def _like(matrix: Matrix, wanted: Row, label: str) -> MatrixCell | None:
    rows = [row for row in matrix.rows if (row.method, row.calib) == (wanted.method, wanted.calib)]
    return _of(matrix, rows[0], label) if rows else None


def _fit(head: Sequence[str], rows: Sequence[Sequence[str]], name: int) -> tuple[bool, float | None, bool]:
    """Whether the table needs both columns of the page; points of the column of names where these must be broken;
    whether it has room then."""
    widths = [max(_points(texts[i]) for texts in (head, *rows)) for i in range(len(head))]
    total = sum(widths) + _GAP * (len(widths) - 1)
    wide = total > _COLUMN
    room = (_PAGE if wide else _COLUMN) - (total - widths[name])
    return wide, None if widths[name] <= room else max(room, _NAME), room >= min(widths[name], _NAME)


def _points(text: str) -> float:
    """Width of a cell at \\small, from its letters alone, on the safe side."""
    plain = re.sub(r"\\(scriptsize|textbf)", "", text)
    return _LETTER * len(re.sub(r"[{}$\\]", "", re.sub(r"\\[a-z]+", "x", plain)))


def _caption(tables: Sequence[Matrix]) -> str:
    seeds = max((cell.n for matrix in tables for row in matrix.rows for cell in row.cells if cell), default=0)
    images = sorted({matrix.n_eval for matrix in tables if matrix.n_eval})
    on = f" on {' and '.join(f'{count:,}' for count in images)} images" if images else ""
    scores = list(dict.fromkeys(matrix.measure for matrix in tables))
    what = f"fidelity (%), {wording.FIDELITY}," if _is_fidelity(tables) else f"{' and '.join(scores)} (%)"
    one = len({matrix.model for matrix in tables}) == 1
    what = f"{model_name(tables[0].model)}: {what}" if one else what[0].upper() + what[1:]
    spread = f"; mean ± sample standard deviation over up to {seeds} seeds" if seeds > 1 else ""
    best = "; bold: highest of each column and bit-width" if any(len(matrix.rows) > 1 for matrix in tables) else ""
    return f"{what}{on}{spread}{best}."


def _cell(cell: MatrixCell | None) -> str:
    if cell is None:
        return ""
    mean, _, std = wording.accuracy(cell).partition(" ± ")
    text = rf"\textbf{{{mean}}}" if cell.best else escape(mean)
    missing = rf" {{\scriptsize({cell.n}/{cell.runs})}}" if 0 < cell.n < cell.runs else ""
    return text + (rf" {{\scriptsize$\pm${std}}}" if std else "") + missing


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def escape(text: str) -> str:
    """Text with LaTeX's special characters made harmless."""
    return "".join(_SPECIAL.get(character, character) for character in text)
