"""The picture of one run's bit-widths: blocks × places in a block."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_BLOCK = re.compile(r"(.*?blocks\.\d+)\.(.+)")


def place(site: str) -> tuple[str, str]:
    """Column and row of a site: `blocks.3.attn.qkv.input` → (`blocks.3`, `attn.qkv.input`)."""
    found = _BLOCK.fullmatch(site)
    block, _, rest = site.partition(".")
    return (found[1], found[2]) if found else (block, rest)


def mixed(sites: pd.DataFrame) -> bool:
    """Whether weights or activations have more than one width, floating point aside."""
    from vitq.report.allocation import mixed

    return mixed(sites)


def bits(sites: pd.DataFrame) -> go.Figure:
    """Heat map of the widths of one run. sites: a table of sites. z holds bits, 32 for floating point."""
    import plotly.graph_objects as go

    from vitq.report.allocation import COLOURS, WIDTHS

    cells = {place(site): int(width) for site, width in zip(sites["site"], sites["bits"], strict=True)}
    columns = list(dict.fromkeys(column for column, _ in cells))
    rows = list(dict.fromkeys(row for _, row in cells))
    z = [[cells.get((column, row)) for column in columns] for row in rows]
    level = {width: index for index, width in enumerate(WIDTHS)}
    steps = len(WIDTHS)
    figure = go.Figure(
        go.Heatmap(
            x=columns,
            y=rows,
            z=[[None if width is None else level[width] for width in line] for line in z],
            text=[["" if width is None else "fp" if width == 32 else str(width) for width in line] for line in z],
            texttemplate="%{text}",
            hovertemplate="%{x}.%{y}<br>%{text} bits<extra></extra>",
            zmin=-0.5,
            zmax=steps - 0.5,
            colorscale=[(edge / steps, colour) for i, colour in enumerate(COLOURS) for edge in (i, i + 1)],
            colorbar={"tickvals": list(range(steps)), "ticktext": [*map(str, WIDTHS[:-1]), "fp"], "title": "bits"},
            xgap=1,
            ygap=1,
        )
    )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category", tickangle=-45)
    figure.update_layout(height=160 + 26 * len(rows), margin={"t": 30})
    return figure
