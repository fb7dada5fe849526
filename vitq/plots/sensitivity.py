"""The sensitivity probe's picture: the ranking, the way along the model, kinds against widths."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from vitq.plots.palette import BLUE, MARKERS, PALETTE

_SHOWN = 20
# KL below which rounding of float32 is seen.
_FLOOR = 1e-9


def draw(arrays: dict[str, np.ndarray], own_kl: np.ndarray, title: str) -> Figure:
    """arrays: of `Sensitivity.measure`; own_kl: (S,) KL at each name's own width."""
    figure = Figure(figsize=(14, 5.5), layout="constrained")
    figure.suptitle(f"{title}: one at a time quantized, all else in full precision", fontsize="medium")
    left, middle, right = figure.subplots(1, 3)
    kl, kinds = np.maximum(own_kl, _FLOOR), arrays["kind"]
    top = arrays["ranking"][:_SHOWN][::-1]
    left.barh(np.arange(len(top)), kl[top], color=BLUE)
    left.set_yticks(np.arange(len(top)), arrays["name"][top], fontsize="x-small")
    left.set_xscale("log")
    left.set_xlabel("KL at the run's own width, nats")
    names = sorted(set(kinds.tolist()))
    for number, kind in enumerate(names):
        chosen = np.flatnonzero(kinds == kind)
        colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
        middle.plot(chosen, kl[chosen], marker=marker, ls="", ms=4, color=colour, label=kind)
        mean = np.maximum(arrays["kl"][chosen], _FLOOR).mean(axis=0)
        right.plot(arrays["width"], mean, marker=marker, color=colour, label=kind)
    middle.set_xlabel("in the order of the model")
    right.set_xlabel("bits")
    right.set_xticks(arrays["width"])
    right.set_ylabel("mean KL of a site, nats")
    for axes in (middle, right):
        axes.set_yscale("log")
        axes.legend(fontsize="x-small")
    for axes in (left, middle, right):
        axes.grid(alpha=0.2)
    return figure
