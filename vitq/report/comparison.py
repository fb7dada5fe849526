"""Is method A better than method B here? Every pair of methods of a sweep, image by image, in one line each."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from vitq.errors import StoreError, VitqError, unknown
from vitq.report import wording
from vitq.report.correction import ALPHA, CORRECTED, RESAMPLES, SEED, corrected, outcomes, percentiles
from vitq.report.paired_test import Predictions
from vitq.store import Store

# Where a comparison holds: runs that agree in these used the same model, images, bits and calibration size.
HERE = ["model", "data", "bits", "calib", "protocol"]
SAME = "no difference shown"
COLUMNS = (
    "model", "data", "bits", "calib", "a", "b", "difference", "low", "high", "n", "seeds", "p", *CORRECTED, "note",
)  # fmt: skip


def pairwise(store: Store, df: pd.DataFrame) -> pd.DataFrame:
    """All pairs of methods of each cell of a sweep's table (`df` from `table`), over the seeds that both finished.

    difference: a minus b, percent points, mean over seeds (of detectors: of the images' own average precision); low,
    high: 95 % interval of a bootstrap over images (each image keeps its mean over seeds). p: exact two-sided sign-flip
    (randomization) test over images, McNemar's test where there is one seed; note: why a pair could not be compared;
    outcomes: see `corrected`, which adds CORRECTED: here for all pairs of this table.
    """
    done = df[(df["state"] == "done") & (df["bits"] != "FP")]
    predictions = Predictions(store)
    rows = []
    for key, cell in done.groupby(HERE, sort=False, dropna=False):
        where = dict(zip(HERE, key, strict=True))
        where.pop("protocol")
        methods = {str(m): part for m, part in cell.groupby("method", sort=False)}
        for a, b in combinations(methods, 2):
            left, right = (dict(zip(methods[m]["seed"], methods[m]["signature"], strict=True)) for m in (a, b))
            rows.append(where | {"a": a, "b": b} | compare_runs(left, right, predictions))
    return corrected(pd.DataFrame(rows, columns=[*COLUMNS, "outcomes"]).astype({"calib": "Int64"}))


def compare_runs(left: Mapping[Any, str], right: Mapping[Any, str], predictions: Predictions) -> dict[str, object]:
    """Columns of `pairwise` for two sets of runs, seed → signature, over the seeds that both have: left minus right."""
    empty = dict.fromkeys(("difference", "low", "high", "p"), np.nan) | {"n": 0, "seeds": 0, "outcomes": ()}
    seeds = [seed for seed in left if seed in right]
    if not seeds:
        return empty | {"note": "no seed that both finished"}
    differences = []
    try:
        for seed in seeds:
            one, other = predictions.read(str(left[seed])), predictions.read(str(right[seed]))
            if not np.array_equal(one["label"], other["label"]):
                return empty | {"note": "not the same images"}
            differences.append(one["correct"].astype(np.int64) - other["correct"].astype(np.int64))
        if len({len(d) for d in differences}) > 1:
            return empty | {"note": "not the same images in all seeds"}
    except StoreError as error:
        return empty | {"note": str(error)}
    # Whole numbers: the sum over seeds, divided by their number at the very end.
    total = np.sum(differences, axis=0)
    # Right or wrong is 0 or 1; the average precision of an image is in percent.
    unit = 1.0 if one["correct"].dtype == bool else 0.01
    counted = outcomes(total, unit)
    low, high = percentiles(counted, len(seeds), ALPHA)
    return {
        "difference": 100.0 * unit * float(total.mean()) / len(seeds), "low": low, "high": high, "n": len(total),
        "seeds": len(seeds), "p": sign_flip(total), "note": "", "outcomes": counted,
    }  # fmt: skip


def interval(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[float, float, float]:
    """(mean, low, high) of whole numbers (N,), with the 95 % percentile interval of the bootstrap over N."""
    low, high = percentiles(outcomes(values), 1, ALPHA, resamples, seed)
    return float(values.mean()), low / 100, high / 100


def sign_flip(values: np.ndarray) -> float:
    """Exact two-sided p of the hypothesis that each whole number (N,) is as likely as its negative.

    The sum under random signs is a sum of independent two-point variables; its distribution follows by convolution.
    For values in {−1, 0, 1} this is McNemar's exact test.
    """
    sizes, counts = np.unique(np.abs(values[values != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    # Distribution of Σ ±size over [−total, total], built from binomials: one convolution for each distinct size.
    from scipy.signal import fftconvolve
    from scipy.stats import binom

    distribution = np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        part = np.zeros(2 * count * size + 1)
        part[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = fftconvolve(distribution, part) if len(distribution) > 1 else part
    total = len(distribution) // 2
    distance = abs(int(values.sum()))
    tail = distribution[: total - distance + 1].sum() + distribution[total + distance :].sum()
    return float(min(1.0, max(tail, 0.0))) if distance else 1.0


def sentence(row: Mapping[Any, Any]) -> str:
    """A row of `pairwise` in words, or one that has a `where` in place of model, bits and calibration size."""
    images = "" if "where" in row or pd.isna(row["calib"]) else f", {row['calib']} calibration images"
    where = row.get("where") or f"{row['model']} at {row['bits']}{images}"
    a, b = row["a"], row["b"]
    if row["note"]:
        return f"{where}: {a} and {b} cannot be compared: {row['note']}"
    answer = verdict(row)
    numbers = f"{evidence(row)}, {row['n']} evaluation images, {row['seeds']} seed{'' if row['seeds'] == 1 else 's'}"
    if answer == SAME:
        return f"{where}: {answer} between {a} and {b}: {numbers}"
    return f"{where}: {a} is {answer} than {b}: {numbers}"


def evidence(row: Mapping[Any, Any]) -> str:
    """Difference, interval and p of a row of `corrected`: `+12.00 points [+8.10, +15.90], p 0.012`, and with several
    comparisons the corrected p and its interval: `…; of 12: p (Holm) 0.072, [−0.20, +19.00] (99.2 %)`."""
    plain = f"{wording.signed(float(row['difference']))} points {_span(row, 'low', 'high')}"
    text = f"{plain}, p {wording.p_value(float(row['p']))}"
    if row["family"] > 1:
        text += f"; of {row['family']}: p (Holm) {wording.p_value(float(row['p_holm']))}, {belonging(row)}"
    low, high = float(row["low_holm"]), float(row["high_holm"])
    if (low > 0 or high < 0) != (verdict(row) != SAME):
        text += " (at the margin: the interval is a bootstrap's, p an exact test's)"
    return text


def belonging(row: Mapping[Any, Any]) -> str:
    """The interval that belongs to a row's corrected p: `[−0.20, +19.00] (99.2 %)`."""
    return f"{_span(row, 'low_holm', 'high_holm')} ({float(row['level']):.4g} %)"


def _span(row: Mapping[Any, Any], low: str, high: str) -> str:
    return f"[{wording.signed(float(row[low]))}, {wording.signed(float(row[high]))}]"


def verdict(row: Mapping[Any, Any]) -> str:
    """`better`, `worse`, or SAME, of a row of `pairwise` that could be compared."""
    if not float(row["p_holm"]) < ALPHA:
        return SAME
    return "better" if float(row["difference"]) > 0 else "worse"


def between(pairs: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Rows of `pairwise` where methods a and b meet, as a minus b, corrected for these alone: they are what is asked.

    Raises VitqError for a method that is in no pair.
    """
    known = list(dict.fromkeys([*pairs["a"], *pairs["b"]]))
    if not known:
        raise VitqError("no two methods have finished under the same model, data, bits and calibration size", "method")
    for name in (a, b):
        if name not in known:
            raise VitqError(unknown("method", name, known, "Two finished methods are compared.", key="method"))
    rows: list[dict[Any, Any]] = []
    for _, row in pairs.iterrows():
        if (row["a"], row["b"]) == (a, b):
            rows.append(row.to_dict())
        elif (row["a"], row["b"]) == (b, a):
            rows.append(flipped(row.to_dict()))
    return corrected(pd.DataFrame(rows, columns=pairs.columns))


def answers(pairs: pd.DataFrame, a: str, b: str) -> list[str]:
    """One line for each pair of methods a and b. Raises VitqError for a method that is in no pair."""
    return [sentence(row.to_dict()) for _, row in between(wording.with_data(pairs), a, b).iterrows()]


def flipped(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The same comparison seen from the other side."""
    return dict(row) | {
        "a": row["b"], "b": row["a"], "difference": -row["difference"], "low": -row["high"], "high": -row["low"],
        "low_holm": -row["high_holm"], "high_holm": -row["low_holm"],
        "outcomes": tuple((-value, count) for value, count in row["outcomes"]),
    }  # fmt: skip
