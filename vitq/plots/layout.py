"""The layout that all plotly figures of a page share."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from vitq.plots.palette import INK


def finish(figure: go.Figure, width: int = 460) -> go.Figure:
    """Layout that all figures share. Ink and grid colours are set by the page, which knows light from dark.

    width: of the plot in pixels, on the screen that it is made for.
    """
    # Room for the legend below: its entries are all as wide as the widest.
    named = [trace for trace in figure.data if trace.showlegend is not False]
    widest = max((len(trace.name) for trace in named), default=0)
    lines = math.ceil(len(named) / max(1, width // (55 + 7 * widest)))
    figure.update_layout(
        template="none",
        height=340 + 20 * lines,
        margin={"l": 60, "r": 10, "t": 34, "b": 20 * lines + 70},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "maxheight": 0.7},
        font={"family": "system-ui, sans-serif", "size": 13},
        hovermode="closest",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": INK, "activecolor": INK},
        showlegend=True,
    )
    figure.update_xaxes(automargin=True, zeroline=False)
    figure.update_yaxes(automargin=True, zeroline=False)
    return figure
