"""The distributions probe's picture: figures along the model, the worst sites, ranges of channels."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitq.plots.palette import BLUE, GREY, MARKERS, ORANGE, PALETTE

_WORST = 6


def draw(arrays: dict[str, np.ndarray], title: str) -> Figure:
    """arrays: of `Distributions.measure`."""
    figure = Figure(figsize=(13, 15), layout="constrained")
    figure.suptitle(title)
    grid = figure.add_gridspec(5, 3)
    for column, (key, label) in enumerate(
        (("sqnr_db", "SQNR, dB"), ("clipped", "clipped, share of elements"), ("unused", "unused codes, share"))
    ):
        _along(figure.add_subplot(grid[0, column]), arrays, key, label)
    for number, index in enumerate(worst(arrays, _WORST)):
        _histogram(figure.add_subplot(grid[1 + number // 3, number % 3]), arrays, index)
    norms = len(arrays["norm"])
    for column, index in enumerate(sorted({0, norms // 2, norms - 1}) if norms else ()):
        _ranges(figure.add_subplot(grid[3, column]), arrays, index, "fp_", "full precision")
        _ranges(figure.add_subplot(grid[4, column]), arrays, index, "", "quantized network")
    return figure


def worst(arrays: dict[str, np.ndarray], count: int) -> list[int]:
    """Positions of the sites of least signal-to-quantization-noise ratio."""
    order: list[int] = np.argsort(arrays["sqnr_db"], kind="stable")[:count].tolist()
    return order


def _along(axes: Axes, arrays: dict[str, np.ndarray], key: str, label: str) -> None:
    for number, kind in enumerate(sorted(set(arrays["kind"].tolist()))):
        chosen = np.flatnonzero(arrays["kind"] == kind)
        colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
        axes.plot(chosen, arrays[key][chosen], marker=marker, ls="", ms=4, color=colour, label=kind)
    axes.set_xlabel("site, in the order of the model")
    axes.set_ylabel(label)
    axes.grid(alpha=0.2)
    axes.legend(fontsize="x-small", ncols=2)


def _histogram(axes: Axes, arrays: dict[str, np.ndarray], index: int) -> None:
    axes.stairs(np.maximum(arrays["counts"][index], 0.5), arrays["edges"][index], fill=True, color=BLUE, alpha=0.6)
    for level in arrays["levels"][index]:
        if np.isfinite(level):
            axes.axvline(level, color=ORANGE, lw=0.8)
    axes.set_yscale("log")
    facts = f"SQNR {arrays['sqnr_db'][index]:.1f} dB, {100 * arrays['clipped'][index]:.2g} % clipped"
    axes.set_title(f"{arrays['site'][index]}, {arrays['bits'][index]} bits\n{facts}", fontsize="small")
    axes.set_ylabel("elements; lines: levels")


def _ranges(axes: Axes, arrays: dict[str, np.ndarray], index: int, prefix: str, where: str) -> None:
    low, high = arrays[f"channel.{prefix}low"][index], arrays[f"channel.{prefix}high"][index]
    order = np.argsort(high - low)[: np.isfinite(low).sum()]
    x = np.arange(len(order))
    axes.fill_between(x, low[order], high[order], step="mid", color=BLUE, alpha=0.5)
    if not prefix:
        for key in ("level_low", "level_high"):
            axes.plot(x, arrays[f"channel.{key}"][index][order], color=ORANGE, lw=1)
    axes.axhline(0, color=GREY, lw=0.5)
    axes.set_title(f"channels, {where}: input of\n{arrays['norm'][index]}", fontsize="small")
    axes.set_xlabel("channels, by range")
    axes.set_ylabel("range; lines: outermost levels" if not prefix else "range")
