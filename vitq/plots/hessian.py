"""The Hessian probe's picture: traces and eigenvalues along the model."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from vitq.plots.palette import BLUE, GREY, ORANGE


def draw(arrays: dict[str, np.ndarray], title: str) -> Figure:
    """arrays: of `Hessian.measure`."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    whole, error = float(arrays["model.trace"]), float(arrays["model.trace_se"])
    figure.suptitle(f"{title}: trace {whole:.4g} ± {error:.2g}, {len(arrays['samples'])} samples", fontsize="medium")
    left, middle, right = figure.subplots(1, 3)
    names = arrays["block"].tolist()
    x = np.arange(len(names))
    left.bar(x, arrays["trace"], yerr=arrays["trace_se"], color=BLUE, ecolor=GREY, capsize=2)
    left.set_ylabel("trace ± standard error")
    scale = arrays["parameters"]
    middle.bar(x, arrays["trace"] / scale, yerr=arrays["trace_se"] / scale, color=BLUE, ecolor=GREY, capsize=2)
    middle.set_ylabel("trace per weight")
    measured = bool(np.isfinite(arrays["eigenvalues"]).any())
    right.set_visible(measured)
    for k, values in enumerate(arrays["eigenvalues"].T if measured else ()):
        right.plot(x, values, marker="os^v<>"[k % 6], ls="", color=ORANGE if k else BLUE, label=f"{k + 1}.")
    for value in np.atleast_1d(arrays["model.eigenvalues"]):
        right.axhline(float(value), color=GREY, lw=0.8)
    right.set_ylabel("largest eigenvalues; lines: whole model")
    if measured:
        right.set_yscale("symlog")
        right.legend(fontsize="small")
    for axes in (left, middle, right):
        axes.set_xticks(x, names, rotation=90, fontsize="x-small")
        axes.grid(alpha=0.2, axis="y")
    return figure
