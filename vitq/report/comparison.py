"""Is method A better than method B here? Every pair of methods of a sweep, image by image, in one line each."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from vitq.errors import StoreError, VitqError, unknown
from vitq.report import wording
from vitq.report.paired_test import RESAMPLES, SEED, Predictions, holm
from vitq.store import Store

# Where a comparison holds: runs that agree in these used the same model, images, bits and calibration size.
HERE = ["model", "data", "bits", "calib", "protocol"]
LEVEL = 0.05
SAME = "no difference shown"
COLUMNS = (
    "model", "data", "bits", "calib", "a", "b", "difference", "low", "high", "n", "seeds", "p", "p_holm", "note",
)  # fmt: skip


def pairwise(store: Store, df: pd.DataFrame) -> pd.DataFrame:
    """All pairs of methods of each cell of a sweep's table (`df` from `table`), over the seeds that both finished.

    difference: a minus b, percent points, mean over seeds (of detectors: of the images' own average precision); low,
    high: 95 % interval of a bootstrap over images (each image keeps its mean over seeds). p: exact two-sided sign-flip
    (randomization) test over images, McNemar's test where there is one seed; p_holm: corrected for all pairs in this
    table. note: why a pair could not be compared.
    """
    done = df[(df["state"] == "done") & (df["bits"] != "FP")]
    predictions = Predictions(store)
    rows = []
    for key, cell in done.groupby(HERE, sort=False, dropna=False):
        where = dict(zip(HERE, key, strict=True))
        where.pop("protocol")
        methods = {str(m): part for m, part in cell.groupby("method", sort=False)}
        for a, b in combinations(methods, 2):
            rows.append(where | {"a": a, "b": b} | _compare(methods[a], methods[b], predictions))
    out = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"calib": "Int64"})
    valid = out["p"].notna()
    out.loc[valid, "p_holm"] = holm(out.loc[valid, "p"].astype(float).tolist())
    return out


def _compare(a: pd.DataFrame, b: pd.DataFrame, predictions: Predictions) -> dict[str, object]:
    empty = {"difference": np.nan, "low": np.nan, "high": np.nan, "n": 0, "seeds": 0, "p": np.nan, "p_holm": np.nan}
    left, right = (dict(zip(part["seed"], part["signature"], strict=True)) for part in (a, b))
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
    difference, low, high = interval(total)
    # Right or wrong is 0 or 1; the average precision of an image is in percent.
    scale = (100.0 if one["correct"].dtype == bool else 1.0) / len(seeds)
    return {
        "difference": scale * difference, "low": scale * low, "high": scale * high, "n": len(total),
        "seeds": len(seeds), "p": sign_flip(total), "p_holm": np.nan, "note": "",
    }  # fmt: skip


def interval(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[float, float, float]:
    """(mean, low, high) of whole numbers (N,), with the 95 % percentile interval of the bootstrap over N.

    N draws with replacement from few distinct values are one multinomial draw of their counts: the bootstrap itself,
    without an N × resamples table.
    """
    levels, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=resamples)
    low, high = np.percentile(drawn @ levels / len(values), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


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
    """A row of `pairwise` in words."""
    where = f"{row['model']} at {row['bits']}" + (
        "" if pd.isna(row["calib"]) else f", {row['calib']} calibration images"
    )
    a, b = row["a"], row["b"]
    if row["note"]:
        return f"{where}: {a} and {b} cannot be compared: {row['note']}"
    numbers = (
        f"{wording.signed(float(row['difference']))} points "
        f"[{wording.signed(float(row['low']))}, {wording.signed(float(row['high']))}], "
        f"p (Holm) {wording.p_value(float(row['p_holm']))}, "
        f"{row['n']} evaluation images, {row['seeds']} seed{'' if row['seeds'] == 1 else 's'}"
    )
    answer = verdict(row)
    if answer == SAME:
        return f"{where}: {answer} between {a} and {b}: {numbers}"
    return f"{where}: {a} is {answer} than {b}: {numbers}"


def verdict(row: Mapping[Any, Any]) -> str:
    """`better`, `worse`, or SAME, of a row of `pairwise` that could be compared."""
    if not float(row["p_holm"]) < LEVEL:
        return SAME
    return "better" if float(row["difference"]) > 0 else "worse"


def between(pairs: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Rows of `pairwise` where methods a and b meet, as a minus b. Raises VitqError for a method that is in no pair."""
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
    return pd.DataFrame(rows, columns=pairs.columns)


def answers(pairs: pd.DataFrame, a: str, b: str) -> list[str]:
    """One line for each pair of methods a and b. Raises VitqError for a method that is in no pair."""
    return [sentence(row.to_dict()) for _, row in between(wording.with_data(pairs), a, b).iterrows()]


def flipped(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The same comparison seen from the other side."""
    return dict(row) | {
        "a": row["b"], "b": row["a"], "difference": -row["difference"], "low": -row["high"], "high": -row["low"]
    }  # fmt: skip
