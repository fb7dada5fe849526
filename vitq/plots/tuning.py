"""Pictures of a study: the way to the best options, and what they depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from vitq.plots.layout import finish
from vitq.plots.palette import BLUE, GREY, ORANGE


def curve(trials: Sequence[tuple[int, float, str]], own: float | None) -> go.Figure:
    """KL of each trial and the least so far. trials: (number, KL in nats, its options in words), in order. own: KL with
    the recipe's own options."""
    least: list[float] = []
    for _, kl, _ in trials:
        least.append(min(kl, least[-1]) if least else kl)
    numbers = [number for number, _, _ in trials]
    figure = go.Figure()
    figure.add_scatter(
        name="trial", mode="markers", x=numbers, y=[kl for _, kl, _ in trials], marker={"color": BLUE, "size": 8},
        customdata=[[words] for _, _, words in trials],
        hovertemplate="trial %{x}<br>KL %{y:.4g} nats<br>%{customdata[0]}<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        name="least so far", mode="lines", x=numbers, y=least, line={"color": ORANGE, "shape": "hv"}, hoverinfo="skip"
    )
    if own is not None:
        # A trace: the text of a line across the plot would stand at 10^KL of a logarithmic axis.
        line = {"color": GREY, "dash": "dot"}
        figure.add_scatter(
            name="own options", mode="lines", x=[numbers[0], numbers[-1]], y=[own, own], line=line, hoverinfo="skip"
        )
    figure.update_xaxes(title="trial", dtick=1 + len(numbers) // 10)
    figure.update_yaxes(title="KL on held-out images, nats", type="log" if min(least, default=0) > 0 else "linear")
    return finish(figure)


def importances(shares: Mapping[str, float]) -> go.Figure:
    """Share of each option in the spread of KL, the largest on top."""
    ranked = sorted(shares.items(), key=lambda item: item[1])
    figure = go.Figure()
    figure.add_bar(
        x=[share for _, share in ranked], y=[key for key, _ in ranked], orientation="h", marker={"color": BLUE},
        showlegend=False,
    )  # fmt: skip
    figure.update_xaxes(title="share in the spread of KL (PED-ANOVA)")
    return finish(figure)
