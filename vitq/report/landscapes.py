"""Loss landscapes of a sweep's runs side by side, on one colour scale; and one of them as a surface."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vitq.report.figures import finish, style
from vitq.report.probed import Arrays, by_model

# Pictures of one model on a page, and in a row.
MOST, COLUMNS = 24, 4
_HEIGHT = 270
Tile = tuple[str, np.ndarray, np.ndarray, np.ndarray]


def side_by_side(df: pd.DataFrame, probed: dict[str, Arrays]) -> list[tuple[str, go.Figure]]:
    """(title, figure): for each model its runs' landscapes. df: from `table`; probed: signature → arrays."""
    figures = []
    for model, runs, total in by_model(df, probed, MOST):
        count = "" if total <= MOST else f", the first {MOST} of {total} runs"
        around = [(label, a) for label, a in runs if "random.loss" in a]
        if around:
            tiles = [
                (f"{label}<br>roughness {_number(a, 'random')}", a["random.axis"], a["random.axis"], a["random.loss"])
                for label, a in around
            ]
            figures.append((f"{model}: cross-entropy around the model, two random directions{count}", contours(tiles)))
            figures.append((f"{model}: cross-entropy along the first direction{count}", lines(around)))
        blocks = [(label, a) for label, a in runs if "block.channel" in a]
        if blocks:
            tiles = [
                (
                    f"{label}, {granularity}-wise<br>roughness {_number(a, f'block.{granularity}')}",
                    a["block.scale"],
                    a["block.weight"],
                    a[f"block.{granularity}"],
                )
                for label, a in blocks
                for granularity in ("channel", "tensor")
            ]
            names = ", ".join(sorted({str(a["block.name"]) for _, a in blocks}))
            title = f"{model}: reconstruction loss of {names}, post-LayerNorm channel-wise and tensor-wise{count}"
            figures.append((title, contours(tiles)))
    return figures


def contours(tiles: list[Tile]) -> go.Figure:
    """Filled contours of (title, x, y, losses (len(y), len(x))) on one logarithmic colour scale."""
    columns = min(COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    figure = make_subplots(
        rows, columns, subplot_titles=[tile[0] for tile in tiles], horizontal_spacing=0.16 / columns,
        vertical_spacing=0.3 / rows if rows > 1 else 0,
    )  # fmt: skip
    shown = [logarithm(tile[3]) for tile in tiles]
    low, high = min(z.min() for z in shown), max(z.max() for z in shown)
    for index, ((title, x, y, _), z) in enumerate(zip(tiles, shown, strict=True)):
        figure.add_trace(
            go.Contour(
                x=_short(x), y=_short(y), z=[_short(row) for row in z], name=title.partition("<br>")[0],
                coloraxis="coloraxis", contours={"coloring": "heatmap", "showlines": False},
                hovertemplate="x %{x}, y %{y}<br>loss 10^%{z:.2f}<extra>%{fullData.name}</extra>",
            ),
            index // columns + 1, index % columns + 1,
        )  # fmt: skip
    finish(figure)
    # Cividis is told apart by colour-blind people and in grey.
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
        colour, _, symbol = style(index)
        x, loss = arrays["random.axis"], arrays["random.loss"]
        figure.add_scatter(
            x=_short(x), y=_short(loss[len(x) // 2]), name=label, mode="lines+markers",
            line={"color": colour, "width": 1}, marker={"color": colour, "symbol": symbol, "size": 6},
            hovertemplate="%{x}: %{y:.4g} nats<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.update_xaxes(title="step, in filter norms", showgrid=False)
    figure.update_yaxes(title="cross-entropy, nats")
    return finish(figure)


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


def _number(arrays: Arrays, place: str) -> str:
    return f"{float(arrays[f'{place}.scalar.roughness']):.2f}"


def _short(values: np.ndarray) -> list[float]:
    """Four significant digits are more than a screen shows; a page of many runs stays small."""
    return [float(f"{value:.4g}") for value in values.tolist()]
