"""Which layer got how many bits: one heat map per model, layers × runs."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from vitq.plots.bit_allocation import mixed, of_runs
from vitq.plots.layout import finish


def heat_maps(df: pd.DataFrame, sites: dict[str, pd.DataFrame]) -> list[tuple[str, go.Figure]]:
    """(model, figure) for every model with a run of mixed widths.

    df: from `table`; sites: signature → table of sites. All quantized runs of the model are columns, those of equal
    widths one together, so that an allocation stands beside the single widths it is compared with; first seed only,
    the others differ little.
    """
    figures = []
    for model, part in df[df["signature"].isin(list(sites))].groupby("model", sort=False):
        shown = part[(part["bits"] != "FP") & (part["seed"] == part["seed"].min())]
        if any(mixed(sites[s]) for s in shown["signature"]):
            figures.append((str(model), _heat_map(shown, sites)))
    return figures


def _heat_map(runs: pd.DataFrame, sites: dict[str, pd.DataFrame]) -> go.Figure:
    # Runs of one width each are alike: one column, which a narrow screen has room for.
    alike: dict[tuple[tuple[str, int], ...], list[str]] = {}
    tables = []
    for _, row in runs.iterrows():
        table = sites[row["signature"]]
        bits = tuple(zip(table["site"], table["bits"], strict=True))
        if bits not in alike:
            tables.append(table)
        alike.setdefault(bits, []).append(f"{row['method']} {row['bits']}")
    labels = [f"{first} and {len(more)} like it" if more else first for first, *more in alike.values()]
    figure = finish(of_runs(labels, tables))
    # Room for upright labels below the buttons; slanted ones would be hidden where they lean over the figure's edge.
    top = 60 + int(7 * max(map(len, labels)))
    height = top + 30 + 13 * len(figure.data[0].y)
    figure.update_layout(height=height, showlegend=False, margin={"t": top, "b": 30})
    return figure
