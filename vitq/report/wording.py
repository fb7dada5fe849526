"""Numbers and sentences of a report, said the same way in every format."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from vitq.report.accuracy_table import Matrix, MatrixCell, Row, standard_error
from vitq.report.numbers import MINUS as MINUS
from vitq.report.numbers import number as number
from vitq.report.numbers import signed

# What fidelity is (vitq.tasks.detection).
FIDELITY = "AP against the objects that full precision finds with a score of at least 0.5"


def accuracy(cell: MatrixCell) -> str:
    """`97.50`, or `97.50 ± 0.12` where several seeds are finished; `failed` or `pending` without a number."""
    if math.isnan(cell.top1):
        return cell.waiting if not cell.n else cell.nothing
    return f"{cell.top1:.2f}" + ("" if math.isnan(cell.std) else f" ± {cell.std:.2f}")


def change(cell: MatrixCell) -> str:
    """Change from full precision in points, `−0.56`; with `2/3 seeds` where some are missing; may be empty."""
    parts = [] if math.isnan(cell.drop) else [signed(-cell.drop)]
    if 0 < cell.n < cell.runs:
        parts.append(f"{cell.n}/{cell.runs} seeds")
    return ", ".join(parts)


def size(span: tuple[float, float] | None) -> str:
    """Megabytes over the methods of a column: `0.210`, or `0.210–0.213` where they differ."""
    if span is None:
        return "–"
    # Three significant digits, and no finer than a kilobyte where that says something.
    digits = 2 - math.floor(math.log10(span[1])) if span[1] > 0 else 2
    digits = max(0, min(digits, 3) if span[1] >= 0.01 else digits)
    low, high = (f"{value:.{digits}f}" for value in span)
    return low if low == high else f"{low}–{high}"


def seconds(value: float) -> str:
    """`0.84`, `12.3`, `345`, or a dash."""
    return "–" if math.isnan(value) else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def p_value(value: float) -> str:
    """`0.031`, `<0.001`, or a dash."""
    return "–" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def caption(matrix: Matrix) -> str:
    """What the numbers of a matrix are."""
    published = "" if math.isnan(matrix.published) else f"; published: {matrix.published:.2f} %"
    text = (
        f"{matrix.measure[0].upper()}{matrix.measure[1:]} in %; in brackets the change from full precision"
        f"{'' if math.isnan(matrix.fp_top1) else f' ({matrix.fp_top1:.2f} %{published})'} in percent points."
    )
    return f"{text}{_cells(matrix)} s: mean seconds per run. Size: MB of 10⁶ bytes, scales included."


def _cells(matrix: Matrix) -> str:
    """What spread and bold type of its cells are."""
    seeds = max((cell.n for row in matrix.rows for cell in row.cells if cell), default=0)
    spread = f" Mean ± sample standard deviation over up to {seeds} seeds." if seeds > 1 else ""
    return spread + (" Bold: best of the column." if len(matrix.rows) > 1 else "")


def fidelity_caption(own: Sequence[Matrix]) -> str:
    """What the numbers of one detector's fidelity are."""
    forms = " / ".join(matrix.score.removeprefix("fidelity ") for matrix in own)
    return f"Fidelity ({forms}) in %: {FIDELITY}.{_cells(own[0])}"


def fidelity_rows(own: Sequence[Matrix]) -> list[tuple[Row, list[list[tuple[str, bool]]]]]:
    """Rows of the table of one detector's fidelity; of each its cells, and of each cell (text, best) for each matrix;
    one text where no run is finished, none where none was planned."""
    rows = []
    for parts in zip(*(matrix.rows for matrix in own), strict=True):
        cells = []
        for forms in zip(*(row.cells for row in parts), strict=True):
            texts = [(accuracy(cell), cell.best) for cell in forms if cell]
            cells.append(texts if any(cell and cell.n for cell in forms) else texts[:1])
        rows.append((parts[0], cells))
    return rows


def caution(matrix: Matrix) -> str:
    """How far a number of the matrix can be trusted; empty when nothing is finished."""
    # Average precision is no share of the images.
    error = standard_error(matrix.fp_top1, matrix.n_eval) if matrix.score == "top-1" else math.nan
    if math.isnan(error):
        return ""
    return (
        f"n = {matrix.n_eval:,} evaluation images: the standard error of one accuracy is ±{error:.2f} points at full "
        f"precision and ±{standard_error(50, matrix.n_eval):.2f} points at 50 %. The images are the same for all "
        "methods, so a difference between two of them is judged by the paired comparison, not by these errors."
    )


def with_data(df: pd.DataFrame) -> pd.DataFrame:
    """`df` with the dataset beside the model's name, where a model occurs with several: `deit_tiny on imagenet`."""
    several = df.groupby("model")["data"].transform("nunique") > 1
    return df.assign(model=df["model"].where(~several, df["model"].astype(str) + " on " + df["data"].astype(str)))


def unfinished(df: pd.DataFrame) -> pd.DataFrame:
    """The runs without a result: failed and unreadable ones first, with their reasons."""
    runs = with_data(df)[df["state"] != "done"]
    return runs.sort_values("state", key=lambda s: ~s.isin(["failed", "unreadable"]), kind="stable")


def counts(df: pd.DataFrame) -> str:
    """`14 runs: 12 done, 1 failed, 1 planned`."""
    by_state = df["state"].value_counts(sort=False)
    order = [s for s in ("done", "running", "interrupted", "planned", "failed", "unreadable") if s in by_state]
    runs = f"{len(df)} run{'' if len(df) == 1 else 's'}"
    return f"{runs}: {', '.join(f'{by_state[state]} {state}' for state in order)}" if order else runs


def where(row: pd.Series) -> str:
    """A run in words: model, method, bits, calibration and seed."""
    parts = [row["model"], row["method"], row["bits"]]
    if not pd.isna(row["calib"]):
        parts += [f"{row['calib']} calibration images", f"seed {row['seed']}"]
    return " · ".join(str(part) for part in parts if part != "?") or str(row["signature"])
