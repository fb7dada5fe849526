"""Loss landscapes of many runs side by side, on one colour scale, and one of them as a surface: plotly figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vitq.plots.layout import finish
from vitq.plots.palette import style

# Arrays of a probe by name.
Arrays = dict[str, np.ndarray]
# Pictures in a row.
COLUMNS = 4
_HEIGHT = 270
# Of a plot that has the page for itself, in pixels.
_WIDTH = 1200
# The three points that span the plane of weights; vitq/probes/landscape_anchors.py.
_ANCHORS = ("full precision", "rounded", "learned")


@dataclass(frozen=True)
class Tile:
    """One landscape: x (M,), y (N,), losses (N, M). marks: (3, 2) the anchors of a plane of weights."""

    title: str
    x: np.ndarray
    y: np.ndarray
    losses: np.ndarray
    marks: np.ndarray | None = None


def contours(tiles: list[Tile]) -> go.Figure:
    """Filled contours on one logarithmic colour scale."""
    columns = min(COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    figure = make_subplots(
        rows, columns, subplot_titles=[tile.title for tile in tiles], horizontal_spacing=0.16 / columns,
        vertical_spacing=0.3 / rows if rows > 1 else 0,
    )  # fmt: skip
    shown = [logarithm(tile.losses) for tile in tiles]
    low, high = min(z.min() for z in shown), max(z.max() for z in shown)
    for index, (tile, z) in enumerate(zip(tiles, shown, strict=True)):
        name, cell = tile.title.partition("<br>")[0], (index // columns + 1, index % columns + 1)
        figure.add_trace(
            go.Contour(
                x=_short(tile.x), y=_short(tile.y), z=[_short(row) for row in z], name=name,
                coloraxis="coloraxis", contours={"coloring": "heatmap", "showlines": False},
                hovertemplate="x %{x}, y %{y}<br>loss 10^%{z:.2f}<extra>%{fullData.name}</extra>",
            ),
            *cell,
        )  # fmt: skip
        if tile.marks is not None:
            figure.add_trace(
                go.Scatter(
                    x=_short(tile.marks[:, 0]), y=_short(tile.marks[:, 1]), name=name, mode="markers", text=_ANCHORS,
                    marker={"color": "#fff", "size": 11, "line": {"width": 2, "color": "#000"},
                            "symbol": ("circle", "square", "diamond")},
                    hovertemplate="%{text}<extra>%{fullData.name}</extra>",
                ),
                *cell,
            )  # fmt: skip
    finish(figure)
    # Cividis can be read by colour-blind people and in grey.
    figure.update_layout(
        coloraxis={"colorscale": "Cividis", "cmin": low, "cmax": high, "colorbar": _bar(low, high)},
        height=90 + _HEIGHT * rows, showlegend=False, margin={"t": 60, "b": 40, "r": 80},
    )  # fmt: skip
    figure.update_annotations(font={"size": 11})
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    return figure


def lines(runs: list[tuple[str, Arrays]]) -> go.Figure:
    """Loss along the first random direction, a line for each run."""
    figure = go.Figure()
    for index, (label, arrays) in enumerate(runs):
        colour, symbol = style(index)
        x, loss = arrays["random.axis"], arrays["random.loss"]
        figure.add_scatter(
            x=_short(x), y=_short(loss[len(x) // 2]), name=label, mode="lines+markers",
            line={"color": colour, "width": 1}, marker={"color": colour, "symbol": symbol, "size": 8},
            hovertemplate="%{x}: %{y:.4g} nats<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.update_xaxes(title="step, in filter norms", showgrid=False)
    figure.update_yaxes(title="cross-entropy, nats")
    return finish(figure, _WIDTH)


def path(runs: list[tuple[str, Arrays]]) -> go.Figure:
    """Loss from full-precision to rounded weights: a line for each run, and a dotted one with activations in fp."""
    figure = go.Figure()
    for index, (label, arrays) in enumerate(runs):
        colour, symbol = style(index)
        name = f"{label}, barrier {float(arrays['path.scalar.barrier_quantized']):.2g}"
        for key, dash, mode in (("quantized", "solid", "lines+markers"), ("fp", "dot", "lines")):
            figure.add_scatter(
                x=_short(arrays["path.axis"]), y=_short(arrays[f"path.{key}"]), name=name, legendgroup=label,
                mode=mode, line={"color": colour, "width": 1, "dash": dash}, showlegend=key == "quantized",
                marker={"color": colour, "symbol": symbol, "size": 8},
                hovertemplate=f"%{{x}}: %{{y:.4g}} nats, activations {key}<extra>%{{fullData.name}}</extra>",
            )  # fmt: skip
    figure.update_xaxes(title="share of the way", showgrid=False)
    figure.update_yaxes(title="cross-entropy, nats")
    return finish(figure, _WIDTH)


def surface(x: np.ndarray, y: np.ndarray, values: np.ndarray, title: str) -> go.Figure:
    """One landscape to turn around; the height is the loss's decimal logarithm."""
    z = logarithm(values)
    figure = go.Figure(
        go.Surface(
            x=_short(x), y=_short(y), z=[_short(row) for row in z], colorscale="Cividis",
            colorbar=_bar(float(z.min()), float(z.max())),
            hovertemplate="x %{x}, y %{y}<br>loss 10^%{z:.2f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(title=title, margin={"l": 0, "r": 0, "t": 40, "b": 0})
    figure.update_scenes(zaxis_title="log10 loss")
    return figure


def logarithm(values: np.ndarray) -> np.ndarray:
    """log10 of losses; an infinite one is drawn as high as the highest finite one."""
    finite = values[np.isfinite(values)]
    top = float(finite.max()) if finite.size else 1.0
    out: np.ndarray = np.log10(np.clip(np.where(np.isfinite(values), values, top), 1e-12, None))
    return out


def _bar(low: float, high: float) -> dict[str, object]:
    ticks = np.linspace(low, high, 5)
    return {"title": "loss", "tickvals": _short(ticks), "ticktext": [f"{10**tick:.3g}" for tick in ticks]}


def _short(values: np.ndarray) -> list[float]:
    """Four significant digits are more than a screen shows; a page of many runs stays small."""
    return [float(f"{value:.4g}") for value in values.tolist()]
