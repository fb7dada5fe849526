"""Histograms of sites for the page's own script: small numbers, few digits."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd

from vitq.report.probe_data import Arrays, by_model

# Runs of one model and bins of one site that a page carries: 150 sites of a run take about 50 kB.
MOST, BINS = 8, 32
# More lines than these are no lines.
_LEVELS = 64


def histograms(df: pd.DataFrame, probed: dict[str, Arrays]) -> list[dict[str, Any]]:
    """One entry for each run: label, width (its bits) and sites, each with edges, shares of elements, levels, SQNR,
    clipping, codes."""
    entries = []
    for model, runs, _ in by_model(df, probed, MOST):
        for label, arrays in runs:
            sites = [_site(arrays, index) for index in range(len(arrays["site"]))]
            width = re.search(r"\bW\d+A\d+", label)
            entries.append({"label": f"{model} {label}", "width": width[0] if width else "", "sites": sites})
    return entries


def left_out(df: pd.DataFrame, probed: dict[str, Arrays]) -> str:
    """A sentence for each model with more probed runs than are shown; may be empty."""
    cut = [(model, total) for model, _, total in by_model(df, probed, MOST) if total > MOST]
    return " ".join(f"Of {model} the first {MOST} of {total} probed runs." for model, total in cut)


def _site(arrays: Arrays, index: int) -> dict[str, Any]:
    counts, edges = arrays["counts"][index], arrays["edges"][index]
    merged = max(1, len(counts) // BINS)
    used = len(counts) - len(counts) % merged
    summed = counts[:used].reshape(-1, merged).sum(axis=1)
    levels = arrays["levels"][index]
    levels = np.unique(levels[np.isfinite(levels)])
    return {
        "name": str(arrays["site"][index]),
        "kind": str(arrays["kind"][index]),
        "bits": int(arrays["bits"][index]),
        "low": _plain(edges[0]),
        "high": _plain(edges[used]),
        "shares": [_plain(share, 2) for share in summed / counts.sum()],
        "levels": [_plain(level) for level in levels] if len(levels) <= _LEVELS else [],
        **{key: _plain(arrays[key][index]) for key in ("sqnr_db", "clipped", "unused")},
    }


def _plain(value: float, digits: int = 4) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
