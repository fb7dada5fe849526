"""Accuracy against the seconds that it took to quantize, and whose options each method had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from vitq.plots.layout import finish
from vitq.plots.palette import INK, style
from vitq.report import wording
from vitq.report.accuracy_table import bits_order, primary
from vitq.report.numbers import scores

NOTE = (
    "Seconds to quantize: the steps of the recipe, mean over seeds, without loading and scoring. "
    "Front: no other method of this model, bit-width and calibration size is more accurate in as little time. "
    "Runs that an earlier attempt began are left out: their seconds are not known."
)


@dataclass(frozen=True)
class Effort:
    """A method at one model, bit-width and calibration size: means over its finished seeds. options: whose they are.

    score: what `top1` holds: top-1 accuracy, or a detector's average precision.
    """

    model: str
    bits: str
    calib: int
    method: str
    options: str
    seconds: float
    top1: float
    front: bool
    score: str = "top-1"


def efforts(df: pd.DataFrame) -> list[Effort]:
    """df: from `table`. Bits from wide to narrow, methods by their seconds; none where no time was recorded."""
    done = wording.with_data(df[(df["state"] == "done") & (df["bits"] != "FP") & df["quantize_seconds"].notna()])
    compared = []
    for (model, bits, calib), here in done.groupby(["model", "bits", "calib"], sort=False):
        score, scored = primary(here)
        scored = scored[scored["top1"].notna()]
        means = scored.groupby("method", sort=False).agg(
            seconds=("quantize_seconds", "mean"), top1=("top1", "mean"), options=("options", _joined)
        )
        best = float("-inf")
        for method, row in means.sort_values(["seconds", "top1"], ascending=[True, False]).iterrows():
            front = float(row["top1"]) > best
            best = max(best, float(row["top1"]))
            numbers = float(row["seconds"]), float(row["top1"]), front
            names = str(model), str(bits), int(str(calib)), str(method), str(row["options"])
            compared.append(Effort(*names, *numbers, score))
    return sorted(compared, key=lambda effort: (effort.model, bits_order(effort.bits), effort.calib))


def _joined(options: pd.Series[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in options if text))


def cells(compared: Sequence[Effort]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of their table."""
    score, values = scores([(one.score, one.top1) for one in compared])
    rows = [
        [one.model, one.bits, one.method, one.options, wording.seconds(one.seconds), value, "yes" if one.front else ""]
        for one, value in zip(compared, values, strict=True)
    ]
    return ["model", "bits", "method", "options", "s to quantize", score, "front"], rows


def figures(df: pd.DataFrame) -> list[tuple[str, go.Figure]]:
    """(model, figure) for each model with at least two methods: score against seconds, a line along each front."""
    compared = efforts(df)
    # The colours that methods have in the other figures.
    colours = {method: index for index, method in enumerate(dict.fromkeys(df[df["bits"] != "FP"]["method"]))}
    drawn = []
    for model in dict.fromkeys(effort.model for effort in compared):
        here = [effort for effort in compared if effort.model == model]
        if len({effort.method for effort in here}) > 1:
            drawn.append((model, _figure(here, colours)))
    return drawn


def _figure(here: list[Effort], order: Mapping[str, int]) -> go.Figure:
    figure = go.Figure()
    settings = list(dict.fromkeys((effort.bits, effort.calib) for effort in here))
    several = len({calib for _, calib in settings}) > 1
    for bits, calib in settings:
        front = [effort for effort in here if (effort.bits, effort.calib) == (bits, calib) and effort.front]
        # Its bits stand at its end: markers tell methods apart, not bits.
        label = "\u2003" + (f"{bits}, {calib} images" if several else bits)  # clear of the marker
        figure.add_scatter(
            x=[effort.seconds for effort in front], y=[effort.top1 for effort in front], mode="lines+text",
            text=[*[""] * (len(front) - 1), label], textposition="middle right", cliponaxis=False,
            line={"color": INK, "width": 1, "dash": "dot", "shape": "hv"}, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
    for method in dict.fromkeys(effort.method for effort in here):
        colour, symbol = style(order[method])
        own = [effort for effort in here if effort.method == method]
        figure.add_scatter(
            name=method, mode="markers", x=[effort.seconds for effort in own], y=[effort.top1 for effort in own],
            marker={"color": colour, "symbol": symbol, "size": 10},
            customdata=[[effort.bits, effort.calib, effort.options] for effort in own],
            hovertemplate=f"{method}<br>%{{customdata[0]}}, %{{customdata[1]}} calibration images<br>%{{customdata[2]}}"
            "<br>%{x:.1f} s, %{y:.2f} %<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="seconds to quantize", type="log")
    figure.update_yaxes(title=f"{here[0].score}, %")
    return finish(figure)
