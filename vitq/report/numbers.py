"""How figures of a run are written, everywhere alike; imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MINUS = "\u2212"


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign, and no sign on what rounds to zero."""
    if math.isnan(value):
        return "–"
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else MINUS) + text


def figures(metrics: Mapping[str, Any]) -> str:
    """What a run found, in a line: `top-1 98.32 %, drop −0.17 points`; a drop below zero is a gain. Of a detector its
    average precision, `AP box 41.20, drop 0.55`; of a backbone what its features are like."""
    if "cosine" in metrics:
        parts = (("feature cosine", "cosine"), ("relative error", "relative_error"), ("k-NN top-1", "knn_top1"))
        known = [f"{name} {number(metrics[key])} %" for name, key in parts if metrics[key] is not None]
        drop = metrics["drop_knn"]
        return ", ".join([*known, *([] if drop is None else [f"drop {number(drop)} points"])])
    if "ap_box" in metrics:
        pairs = [(name, metrics[f"ap_{name}"], metrics[f"drop_{name}"]) for name in ("box", "mask")]
        words = [f"AP {name} {number(ap)}, drop {number(drop)}" for name, ap, drop in pairs if None not in (ap, drop)]
        return ", ".join(words) or "no average precision: the images hold no objects"
    top1, drop = metrics["top1"], metrics["drop"]
    if top1 is None:
        return "top-1 is not a finite number"
    return f"top-1 {number(top1)} %" + ("" if drop is None else f", drop {number(drop)} points")


def scores(runs: Sequence[tuple[str, float | None]]) -> tuple[str, list[str]]:
    """Heading and cells of a column of scores, from the name and the value of each run's, a cell '' without a value.

    One name is the heading (`top-1`, or `AP mask`); of several each cell says its own, below `score`.
    """
    names = {name for name, _ in runs if name}
    plain = ["" if value is None else number(value) for _, value in runs]
    if len(names) < 2:
        return next(iter(names), "score"), plain
    return "score", [f"{name} {text}" if text else "" for (name, _), text in zip(runs, plain, strict=True)]


def number(value: float, digits: int = 2) -> str:
    """`1.23`, `−0.50`, or a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", MINUS)
