"""The landscape probe's picture: one row for each view."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitq.plots.palette import BLUE, ORANGE

_LEVELS = 24


def draw(arrays: dict[str, np.ndarray], title: str) -> Figure:
    """arrays: of `Landscape.measure`."""
    rows = [view for view in ("random", "path", "block") if any(name.startswith(f"{view}.") for name in arrays)]
    figure = Figure(figsize=(11, 3.9 * len(rows) + 0.4), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for view, line in zip(rows, axes, strict=True):
        {"random": _random, "path": _path, "block": _block}[view](arrays, line)
    return figure


def _random(arrays: dict[str, np.ndarray], axes: np.ndarray) -> None:
    x, loss = arrays["random.axis"], arrays["random.loss"]
    middle = len(x) // 2
    _contour(axes[0], x, x, loss, "cross-entropy, random directions")
    _label(axes[0], "first direction", "second direction")
    axes[1].plot(x, loss[middle], color=BLUE, marker=".", label="first direction")
    axes[1].plot(x, loss[:, middle], color=ORANGE, marker=".", label="second direction")
    _label(axes[1], "step, in filter norms", "cross-entropy, nats")
    axes[1].legend()
    _text(axes[2], arrays, "random")


def _path(arrays: dict[str, np.ndarray], axes: np.ndarray) -> None:
    t = arrays["path.axis"]
    axes[0].plot(t, arrays["path.quantized"], color=BLUE, marker=".", label="activations quantized")
    axes[0].plot(t, arrays["path.fp"], color=ORANGE, marker=".", label="activations in floating point")
    axes[0].set_title("full precision (0) to rounded (1) weights")
    _label(axes[0], "t", "cross-entropy, nats")
    axes[0].legend()
    if "plane.loss" in arrays:
        _contour(axes[1], arrays["plane.x"], arrays["plane.y"], arrays["plane.loss"], "cross-entropy, plane of weights")
        for (x, y), name in zip(arrays["plane.anchors"], ("full precision", "rounded", "learned"), strict=True):
            axes[1].plot(x, y, "wo", markeredgecolor="black")
            right = x > arrays["plane.x"].mean()
            axes[1].annotate(
                name, (x, y), textcoords="offset points", xytext=(-6 if right else 6, 6),
                ha="right" if right else "left", color="white", fontweight="bold",
            )  # fmt: skip
        _label(axes[1], "distance in weight space", "distance in weight space")
    else:
        axes[1].axis("off")
        axes[1].text(0.05, 0.5, "no plane: the recipe learned no weights")
    _text(axes[2], arrays, "path", "plane")


def _block(arrays: dict[str, np.ndarray], axes: np.ndarray) -> None:
    x, y = arrays["block.scale"], arrays["block.weight"]
    both = np.concatenate([arrays["block.channel"].ravel(), arrays["block.tensor"].ravel()])
    name = str(arrays["block.name"])
    for panel, granularity in zip(axes, ("channel", "tensor"), strict=False):
        values = arrays[f"block.{granularity}"]
        _contour(panel, x, y, values, f"{name}, post-LayerNorm {granularity}-wise", (both.min(), both.max()))
        _label(panel, "relative change of scales", "step of weights, in filter norms")
    middle = len(y) // 2
    for granularity, colour in (("channel", BLUE), ("tensor", ORANGE)):
        values = arrays[f"block.{granularity}"]
        rough = float(arrays[f"block.{granularity}.scalar.roughness"])
        axes[2].plot(x, values[middle], color=colour, marker=".", label=f"{granularity}-wise, scales")
        axes[2].plot(y, values[:, middle], color=colour, ls="--", label=f"weights; roughness {rough:.2f}")
    axes[2].set_yscale("log")
    _label(axes[2], "relative change", "reconstruction loss (MSE)")
    axes[2].legend(fontsize="small")


def _contour(
    axes: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, title: str, limits: tuple[float, float] | None = None
) -> None:
    """Filled contours on a logarithmic scale, in which valleys and walls can be seen at once."""
    finite = values[np.isfinite(values)]
    low, high = limits or (float(finite.min()), float(finite.max()))
    shown = np.log10(np.clip(values, max(low, 1e-12), max(high, 1e-12)))
    ends = np.log10(max(low, 1e-12)), np.log10(max(high, 1e-12))
    levels = np.linspace(ends[0], ends[1] if ends[1] > ends[0] else ends[0] + 1e-6, _LEVELS)
    drawn = axes.contourf(x, y, shown, levels=levels, cmap="cividis")
    bar = axes.figure.colorbar(drawn, ax=axes)
    ticks = np.linspace(levels[0], levels[-1], 5)
    bar.set_ticks(ticks.tolist(), labels=[f"{10**tick:.3g}" for tick in ticks])
    axes.set_title(title, fontsize="medium")


def _text(axes: Axes, arrays: dict[str, np.ndarray], *views: str) -> None:
    axes.axis("off")
    lines = []
    for view in views:
        for name, value in arrays.items():
            if name.startswith(f"{view}.scalar."):
                numbers = ", ".join(f"{float(v):.4g}" for v in np.atleast_1d(value))
                lines.append(f"{name.removeprefix(f'{view}.scalar.').replace('_', ', ')}: {numbers}")
    axes.text(0.0, 0.95, "\n".join(lines), va="top", family="monospace")


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.2)
