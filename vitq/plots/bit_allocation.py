"""Which layer got how many bits, as heat maps: of one run, and of several runs beside each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

# One colour per width from viridis, different in grey too; 32 is floating point.
WIDTHS = (2, 3, 4, 5, 6, 7, 8, 32)
COLOURS = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725")

_BLOCK = re.compile(r"(.*?blocks\.\d+)\.(.+)")


def mixed(sites: pd.DataFrame) -> bool:
    """Whether weights or activations of one run have more than one width, floating point aside."""
    quantized = sites[sites["bits"] < 32]
    weights = quantized.loc[quantized["kind"] == "weight", "bits"]
    activations = quantized.loc[quantized["kind"] != "weight", "bits"]
    return weights.nunique() > 1 or activations.nunique() > 1


def of_run(sites: pd.DataFrame) -> go.Figure:
    """Heat map of the widths of one run, blocks × sites of a block. sites: a table of sites."""
    cells = {block_and_place(site): int(width) for site, width in zip(sites["site"], sites["bits"], strict=True)}
    columns = list(dict.fromkeys(column for column, _ in cells))
    rows = list(dict.fromkeys(row for _, row in cells))
    widths = [[cells.get((column, row)) for column in columns] for row in rows]
    figure = _heat_map(columns, rows, widths, xgap=1, ygap=1, texttemplate="%{text}")
    figure.update_traces(hovertemplate="%{x}.%{y}<br>%{text} bits<extra></extra>")
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category", tickangle=-45)
    figure.update_layout(height=160 + 26 * len(rows), margin={"t": 30})
    return figure


def of_runs(labels: Sequence[str], tables: Sequence[pd.DataFrame]) -> go.Figure:
    """Heat map of sites × runs. labels: of the runs; tables: their tables of sites."""
    names = list(dict.fromkeys(name for table in tables for name in table["site"]))
    runs = [dict(zip(table["site"], table["bits"].astype(int), strict=True)) for table in tables]
    widths = [[run.get(name) for run in runs] for name in names]
    figure = _heat_map(
        list(range(len(labels))), names, widths, xgap=1, ygap=0, name="bits", textfont={"size": 9},
        texttemplate="%{text}" if len(labels) <= 24 else None,
    )  # fmt: skip
    figure.update_traces(hovertemplate="%{y}<br>%{text} bits<extra></extra>")
    figure.update_xaxes(tickvals=list(range(len(labels))), ticktext=labels, tickangle=-90, showgrid=False, side="top")
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category", tickfont={"size": 9}, dtick=1)
    return figure


def _heat_map(x: list[Any], y: list[str], widths: list[list[int | None]], **style: Any) -> go.Figure:
    """widths: bits by row and column, None where there is no such site."""
    import plotly.graph_objects as go

    level = {width: index for index, width in enumerate(WIDTHS)}
    steps = len(WIDTHS)
    return go.Figure(
        go.Heatmap(
            x=x,
            y=y,
            z=[[None if width is None else level.get(width) for width in row] for row in widths],
            text=[["" if width is None else "fp" if width == 32 else str(width) for width in row] for row in widths],
            zmin=-0.5,
            zmax=steps - 0.5,
            colorscale=[(edge / steps, colour) for i, colour in enumerate(COLOURS) for edge in (i, i + 1)],
            colorbar={"tickvals": list(range(steps)), "ticktext": [*map(str, WIDTHS[:-1]), "fp"], "title": "bits"},
            **style,
        )
    )


def block_and_place(site: str) -> tuple[str, str]:
    """Column and row of a site: `blocks.3.attn.qkv.input` → (`blocks.3`, `attn.qkv.input`)."""
    match = _BLOCK.fullmatch(site)
    module, _, name = site.partition(".")
    return (match[1], match[2]) if match else (module, name)
