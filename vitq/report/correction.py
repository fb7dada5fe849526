"""Correction for the number of comparisons that were asked for, and the intervals that belong to corrected p-values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd

RESAMPLES = 10_000
# Of the resampling alone: the same report comes out twice the same.
SEED = 0
# Level of every verdict.
ALPHA = 0.05
# What a family adds to its comparisons.
CORRECTED = ("family", "p_holm", "level", "low_holm", "high_holm")


def holm(p: list[float]) -> list[float]:
    """Holm's step-down correction: p-values that stay honest when many comparisons are made at once."""
    order = np.argsort(p, kind="stable")
    out = np.empty(len(p))
    out[order] = np.minimum(np.maximum.accumulate((len(p) - np.arange(len(p))) * np.asarray(p)[order]), 1.0)
    return [float(value) for value in out]


def holm_levels(p: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """The level at which Holm's procedure tests each comparison: α/(m − k + 1) for the k-th smallest p.

    Where it stops, at the first that it does not reject, all further ones are tested at that level. So a comparison is
    rejected by the procedure exactly where its own p is below its level.
    """
    order = np.argsort(p, kind="stable")
    levels = np.empty(len(p))
    tested = alpha / len(p) if len(p) else alpha
    stopped = False
    for rank, index in enumerate(order):
        if not stopped:
            tested = alpha / (len(p) - rank)
            stopped = not p[index] < tested
        levels[index] = tested
    return [float(level) for level in levels]


def corrected(rows: pd.DataFrame) -> pd.DataFrame:
    """Comparisons corrected as one family: those that somebody asked for together.

    rows: with `p`, and `outcomes`, how many images have which sum of differences over the seeds. Adds CORRECTED:
    family, the number of comparisons; p_holm; level, percent, of the interval low_holm … high_holm, which belongs to
    p_holm: it is that of the level at which Holm's procedure tests the comparison.
    """
    asked = rows[rows["p"].notna()]
    p = [float(value) for value in asked["p"]]
    levels = holm_levels(p)
    judged = zip(asked["outcomes"], asked["seeds"], levels, holm(p), strict=True)
    columns = [(one, 100 * (1 - level), *percentiles(counted, seeds, level)) for counted, seeds, level, one in judged]
    added = pd.DataFrame(columns, index=asked.index, columns=CORRECTED[1:], dtype=np.float64)
    return rows.assign(family=len(p), **{name: added[name] for name in CORRECTED[1:]})


def outcomes(total: np.ndarray, unit: float = 1.0) -> tuple[tuple[float, int], ...]:
    """(sum of differences over the seeds, number of images) of whole numbers (N,) of units, one for each image."""
    values, counts = np.unique(total, return_counts=True)
    return tuple((unit * float(value), int(count)) for value, count in zip(values, counts, strict=True))


@cache  # a report asks for most of them several times
def percentiles(
    counted: tuple[tuple[float, int], ...], seeds: int, level: float, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float]:
    """Percentile interval of level 1 − `level` of a bootstrap over images, percent points.

    counted: as from `outcomes`. N draws with replacement from few distinct values are one multinomial draw of their
    counts: the bootstrap itself, without an N × resamples table.
    """
    values, counts = np.array(counted, dtype=np.float64).T
    images = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(images, counts / images, size=resamples)
    low, high = np.percentile(drawn @ values * (100 / (images * seeds)), [50 * level, 100 - 50 * level])
    return float(low), float(high)
