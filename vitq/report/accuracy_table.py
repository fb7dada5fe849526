"""Rows of runs → mean ± std over seeds → one method × bits matrix per model. Every output format draws these."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import pandas as pd

# What makes a cell: runs that agree in these differ in their seed alone.
CELL = ["model", "data", "method", "bits", "calib"]
# What a matrix shows → the columns that hold it, its difference from full precision, and full precision's own.
SCORES = {
    "top-1": ("top1", "drop", "fp_top1"),
    "AP box": ("ap_box", "drop_box", "fp_ap_box"),
    "AP mask": ("ap_mask", "drop_mask", "fp_ap_mask"),
    "feature cosine": ("cosine", "drop_cosine", "fp_cosine"),
    "k-NN top-1": ("knn_top1", "drop_knn", "fp_knn_top1"),
}
# How near a detector is to full precision, whatever its labels say: no score that runs are ranked by.
FIDELITIES = {"fidelity box": "fidelity_box", "fidelity mask": "fidelity_mask"}


def summary(df: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds, one row per model × data × method × bits × calibration size.

    df: from `table`. Columns: the five keys; top1, top5, drop, fp_top1, agreement, kl, mb, fp_mb, seconds (means over
    finished runs); top1_std, drop_std (NaN below two finished runs); n (finished runs), runs (planned), failed, n_eval.
    """
    means = ["top1", "top5", "drop", "fp_top1", "agreement", "kl", "mb", "fp_mb", "seconds"]
    groups = df.groupby(CELL, sort=False, dropna=False)
    out = groups[means].mean()
    for column in ("top1", "drop"):
        out[f"{column}_std"] = groups[column].std(ddof=1)
    out["n"] = groups["state"].agg(lambda states: int((states == "done").sum()))
    out["runs"] = groups.size()
    out["failed"] = groups["state"].agg(lambda states: int(states.isin(["failed", "unreadable"]).sum()))
    out["n_eval"] = groups["n_eval"].min()
    return out.reset_index()


@dataclass(frozen=True)
class MatrixCell:
    """One method at one bit-width: accuracies in percent, `n` finished of `runs` planned. nothing: what is said where
    finished runs have no number."""

    top1: float
    std: float
    drop: float
    n: int
    runs: int
    failed: int
    mb: float
    seconds: float
    best: bool = False
    nothing: str = "not finite"

    @property
    def waiting(self) -> str:
        """What a cell without a number says."""
        return "failed" if self.failed else "pending"


@dataclass(frozen=True)
class Row:
    """One method with one calibration size; `cells` follow the matrix's `bits`, None where nothing was planned."""

    method: str
    calib: int | None
    cells: list[MatrixCell | None]
    seconds: float


@dataclass(frozen=True)
class Matrix:
    """The table of one model on one dataset. sizes: (smallest, largest) MB per bit-width over the methods.

    score: what `top1` and `fp_top1` hold, one of SCORES or FIDELITIES. published: top-1 that is published of
    full precision, or NaN.
    """

    model: str
    data: str
    bits: list[str]
    rows: list[Row]
    sizes: list[tuple[float, float] | None]
    fp_top1: float
    fp_mb: float
    n_eval: int
    score: str = "top-1"
    published: float = math.nan

    @property
    def title(self) -> str:
        return f"{self.model} on {self.data}" + ("" if self.score == "top-1" else f", {self.score}")

    @property
    def measure(self) -> str:
        """The score in words."""
        return "top-1 accuracy" if self.score == "top-1" else self.score

    @property
    def with_calib(self) -> bool:
        """Whether calibration size needs a column: it varies."""
        return len({row.calib for row in self.rows}) > 1

    def label(self, row: Row) -> str:
        """Name of a row, with its calibration size where that varies."""
        return f"{row.method}, {row.calib} calibration images" if self.with_calib else row.method


def standard_error(percent: float, n: int) -> float:
    """Binomial standard error of an accuracy over n images, in percent points."""
    if n <= 0 or math.isnan(percent):
        return math.nan
    p = percent / 100
    return 100 * math.sqrt(p * (1 - p) / n)


def matrices(df: pd.DataFrame) -> list[Matrix]:
    """One matrix per model and dataset of a sweep's table, in the order of the plan; one per score."""
    known = df[df["model"] != "?"]
    return [
        replace(_matrix(str(model), str(data), scored), score=score)
        for (model, data), part in known.groupby(["model", "data"], sort=False)
        for score, scored in scores(part)
    ]


def fidelities(df: pd.DataFrame) -> list[list[Matrix]]:
    """Of each detector on each dataset its matrices of fidelity, one per name of FIDELITIES that it has, with the same
    rows and bits; full precision's own is their ceiling. The cells have no drop."""
    found = []
    for (model, data), part in df[df["model"] != "?"].groupby(["model", "data"], sort=False):
        names = [name for name, own in FIDELITIES.items() if own in part and part[own].notna().any()]
        tables = [part.assign(top1=part[FIDELITIES[name]], drop=math.nan, fp_top1=math.nan) for name in names]
        found.append([
            replace(_matrix(str(model), str(data), own, nothing="–"), score=name)
            for name, own in zip(names, tables, strict=True)
        ])  # fmt: skip
    return [own for own in found if own and own[0].rows]


def scores(part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The scores that runs of one task have, each with the runs' table where it stands as `top1`."""
    names = [name for name, (own, _, _) in SCORES.items() if own in part and part[own].notna().any()]
    if not names or names == ["top-1"]:
        return [("top-1", part)]
    return [
        (name, part.assign(**dict(zip(SCORES["top-1"], (part[column] for column in SCORES[name]), strict=True))))
        for name in names
    ]


def primary(part: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """What runs of one model are compared by, one of SCORES, and their table where it stands as `top1`."""
    return scores(part)[-1]


def _matrix(model: str, data: str, df: pd.DataFrame, nothing: str = MatrixCell.nothing) -> Matrix:
    cells = summary(df[df["bits"] != "FP"])
    bits = sorted(dict.fromkeys(cells["bits"]), key=bits_order)
    # Rounded as `_cell` rounds: pandas breaks ties another way.
    best = {
        b: max((round(float(v), 2) for v in cells.loc[cells["bits"] == b, "top1"].dropna()), default=math.nan)
        for b in bits
    }
    groups = cells.groupby(["method", "calib"], sort=False, dropna=False)
    rows = []
    for _, part in groups:
        method, calib = part[["method", "calib"]].iloc[0]
        by_bits = {str(c["bits"]): c for _, c in part.iterrows()}
        row = [_cell(by_bits[b], best[b], groups.ngroups > 1, nothing) if b in by_bits else None for b in bits]
        rows.append(Row(method, None if pd.isna(calib) else int(calib), row, float(part["seconds"].mean())))
    sizes = [_span(cells.loc[cells["bits"] == b, "mb"]) for b in bits]
    n_eval = df["n_eval"].dropna()
    fp = df.loc[df["bits"] == "FP", "top1"].dropna()
    fp_top1 = float(fp.iloc[0]) if len(fp) else float(df["fp_top1"].mean())
    images = int(n_eval.min()) if len(n_eval) else 0
    published = float(df["published_top1"].mean()) if "published_top1" in df else math.nan
    return Matrix(model, data, bits, rows, sizes, fp_top1, float(df["fp_mb"].mean()), images, published=published)


def _cell(row: pd.Series, best: float, competes: bool, nothing: str) -> MatrixCell:
    return MatrixCell(
        top1=float(row["top1"]), std=float(row["top1_std"]), drop=float(row["drop"]), n=int(row["n"]),
        runs=int(row["runs"]), failed=int(row["failed"]), mb=float(row["mb"]), seconds=float(row["seconds"]),
        best=competes and round(float(row["top1"]), 2) == best, nothing=nothing,
    )  # fmt: skip


def _span(values: pd.Series[float]) -> tuple[float, float] | None:
    values = values.dropna()
    return (float(values.min()), float(values.max())) if len(values) else None


def bits_order(label: str) -> tuple[list[int], str]:
    """Sort key of bit labels: W8A8, W6A6, W4A4*, W4A4 (k=v), W3A3."""
    return [-int(number) for number in re.findall(r"\d+", label.split(" ")[0])], label
