"""The figures of the HTML page."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from vitq.plots.layout import finish
from vitq.plots.palette import INK, style
from vitq.report import wording
from vitq.report.accuracy_table import Matrix, MatrixCell, Row

# Where every accuracy, in percent, is above this, the axis begins below the least of them.
_HIGH = 50.0

_HOVER = (
    "%{customdata[0]}<br>%{customdata[1]}<br>top-1 %{y:.2f} % (%{customdata[2]} points)"
    "<br>%{customdata[3]} MB · %{customdata[4]} s · %{customdata[5]}<extra></extra>"
)


def dots(matrix: Matrix) -> go.Figure:
    """Top-1 in percent per bit-width, a marker for each method, whiskers ± std over seeds, a line at full precision."""
    figure = go.Figure()
    for index, row in enumerate(matrix.rows):
        points = _points(matrix, row)
        stds = [0.0 if math.isnan(cell.std) else cell.std for _, cell in points]
        figure.add_scatter(
            name=matrix.label(row),
            mode="markers",
            offsetgroup=str(index),
            x=[label for label, _ in points],
            y=[cell.top1 for _, cell in points],
            error_y={"type": "data", "array": stds, "visible": any(stds), "color": INK, "thickness": 1.5, "width": 3},
            marker=_marker(index),
            customdata=_hover(matrix, row),
            hovertemplate=_HOVER,
        )
    if not math.isnan(matrix.fp_top1):
        figure.add_hline(y=matrix.fp_top1, line={"color": INK, "width": 1.5, "dash": "dash"})
        # A shape has no legend entry of its own; an empty line gives it one.
        figure.add_scatter(
            x=[None], y=[None], mode="lines", name=f"full precision, {matrix.fp_top1:.2f} %",
            line={"color": INK, "width": 1.5, "dash": "dash"},
        )  # fmt: skip
    figure.update_xaxes(title="bits (W: weights, A: activations)", type="category", showgrid=False)
    figure.update_xaxes(categoryorder="array", categoryarray=matrix.bits, range=[-0.5, len(matrix.bits) - 0.5])
    figure.update_yaxes(title=f"{matrix.measure}, %", **_accuracies(matrix))
    figure.update_layout(scattermode="group", scattergap=0.25)
    return finish(figure)


def scatter(matrix: Matrix) -> go.Figure:
    """Top-1 in percent over model size in MB, one marker per method and bit-width, a star at full precision."""
    figure = go.Figure()
    for index, row in enumerate(matrix.rows):
        points = sorted(zip(_points(matrix, row), _hover(matrix, row), strict=True), key=lambda p: p[0][1].mb)
        figure.add_scatter(
            name=matrix.label(row),
            x=[cell.mb for (_, cell), _ in points],
            y=[cell.top1 for (_, cell), _ in points],
            mode="lines+markers",
            line={"color": style(index)[0], "width": 1},
            marker=_marker(index),
            customdata=[text for _, text in points],
            hovertemplate=_HOVER,
        )
    if front := pareto(matrix):
        figure.add_scatter(
            x=[mb for mb, _ in front], y=[top1 for _, top1 in front], mode="lines", name="Pareto front",
            line={"color": INK, "width": 2, "dash": "dot", "shape": "hv"}, hoverinfo="skip",
        )  # fmt: skip
    if not math.isnan(matrix.fp_top1) and not math.isnan(matrix.fp_mb):
        figure.add_scatter(
            x=[matrix.fp_mb], y=[matrix.fp_top1], mode="markers", name="full precision",
            marker={"symbol": "star", "size": 15, "color": INK},
            hovertemplate=f"full precision<br>{matrix.score}" " %{y:.2f} %<br>%{x:.3g} MB<extra></extra>",
        )  # fmt: skip
    ticks = _log_ticks([float(mb) for trace in figure.data for mb in trace.x])
    figure.update_xaxes(title="model size, MB (logarithmic)", type="log")
    figure.update_xaxes(tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    figure.update_yaxes(title=f"{matrix.measure}, %", **_accuracies(matrix))
    return finish(figure)


def pareto(matrix: Matrix) -> list[tuple[float, float]]:
    """(MB, top-1) of the cells that no cell of at most the same size beats, by size."""
    cells = [cell for row in matrix.rows for _, cell in _points(matrix, row) if not math.isnan(cell.mb)]
    front: list[tuple[float, float]] = []
    for cell in sorted(cells, key=lambda cell: (cell.mb, -cell.top1)):
        if not front or cell.top1 > front[-1][1]:
            front.append((cell.mb, cell.top1))
    return front


def _marker(index: int) -> dict[str, object]:
    colour, symbol = style(index)
    return {"color": colour, "symbol": symbol, "size": 10, "line": {"width": 1, "color": INK}}


def _points(matrix: Matrix, row: Row) -> list[tuple[str, MatrixCell]]:
    pairs = zip(matrix.bits, row.cells, strict=True)
    return [(label, cell) for label, cell in pairs if cell is not None and not math.isnan(cell.top1)]


def _hover(matrix: Matrix, row: Row) -> list[list[str]]:
    rows = []
    for label, cell in _points(matrix, row):
        runs = f"{cell.n} run{'' if cell.n == 1 else 's, mean'}"
        numbers = [wording.signed(-cell.drop), wording.number(cell.mb, 3), wording.seconds(cell.seconds)]
        rows.append([matrix.label(row), label, *numbers, runs])
    return rows


def _accuracies(matrix: Matrix) -> dict[str, object]:
    """The axis of accuracies: from 0 to 100 %, or where all are high only as far as there are some."""
    cells = [cell for row in matrix.rows for _, cell in _points(matrix, row)]
    spread = [(cell.top1, 0.0 if math.isnan(cell.std) else cell.std) for cell in cells]
    spread += [] if math.isnan(matrix.fp_top1) else [(matrix.fp_top1, 0.0)]
    low = min((mean - std for mean, std in spread), default=0.0)
    high = max((mean + std for mean, std in spread), default=0.0)
    if low < _HIGH:
        return {"range": [0, 104], "dtick": 20}
    margin = 0.08 * max(high - low, 1.0)
    return {"range": [low - margin, high + margin], "nticks": 6}


def _log_ticks(values: list[float]) -> list[float]:
    """1, 2, 5, 10 … from below the smallest value to above the largest."""
    positive = [value for value in values if value > 0]
    if not positive:
        return []
    decades = range(math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive))) + 1)
    return [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
