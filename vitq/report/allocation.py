"""Which layer got how many bits: one heat map per model, layers × runs."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from vitq.report.figures import finish

# One colour per width from viridis, told apart in grey too; 32 is floating point.
WIDTHS = (2, 3, 4, 5, 6, 7, 8, 32)
COLOURS = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725")


def mixed(sites: pd.DataFrame) -> bool:
    """Whether weights or activations of one run have more than one width, floating point aside."""
    quantized = sites[sites["bits"] < 32]
    weights = quantized.loc[quantized["kind"] == "weight", "bits"]
    activations = quantized.loc[quantized["kind"] != "weight", "bits"]
    return weights.nunique() > 1 or activations.nunique() > 1


def heat_maps(df: pd.DataFrame, sites: dict[str, pd.DataFrame]) -> list[tuple[str, go.Figure]]:
    """(model, figure) for every model with a run of mixed widths.

    df: from `table`; sites: signature → table of sites. All quantized runs of the model are columns, so that an
    allocation stands beside the single widths it is compared with; first seed only, the others differ little.
    """
    figures = []
    for model, part in df[df["signature"].isin(list(sites))].groupby("model", sort=False):
        shown = part[(part["bits"] != "FP") & (part["seed"] == part["seed"].min())]
        if any(mixed(sites[s]) for s in shown["signature"]):
            figures.append((str(model), _heat_map(shown, sites)))
    return figures


def _heat_map(runs: pd.DataFrame, sites: dict[str, pd.DataFrame]) -> go.Figure:
    names = list(dict.fromkeys(name for s in runs["signature"] for name in sites[s]["site"]))
    labels = [f"{row['method']} {row['bits']}" for _, row in runs.iterrows()]
    levels = {width: i for i, width in enumerate(WIDTHS)}
    columns, texts = [], []
    for signature in runs["signature"]:
        bits = dict(zip(sites[signature]["site"], sites[signature]["bits"].astype(int), strict=True))
        columns.append([levels.get(bits[n]) if n in bits else None for n in names])
        texts.append([("fp" if bits[n] == 32 else str(bits[n])) if n in bits else "" for n in names])
    steps = len(WIDTHS)
    scale = [(edge / steps, colour) for i, colour in enumerate(COLOURS) for edge in (i, i + 1)]
    figure = go.Figure(
        go.Heatmap(
            # Rows are sites, columns are runs.
            z=list(map(list, zip(*columns, strict=True))), text=list(map(list, zip(*texts, strict=True))),
            x=list(range(len(labels))), y=names, zmin=-0.5, zmax=steps - 0.5, colorscale=scale, xgap=1, ygap=0,
            name="bits", hovertemplate="%{y}<br>%{text} bits<extra></extra>",
            texttemplate="%{text}" if len(labels) <= 24 else None, textfont={"size": 9},
            colorbar={"tickvals": list(range(steps)), "ticktext": [*map(str, WIDTHS[:-1]), "fp"], "title": "bits"},
        )
    )  # fmt: skip
    figure.update_xaxes(tickvals=list(range(len(labels))), ticktext=labels, tickangle=-45, showgrid=False, side="top")
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category", tickfont={"size": 9}, dtick=1)
    finish(figure)
    # Room for the slanted labels, the last of which leans over the colour bar, below the buttons.
    top = 60 + int(5 * max(map(len, labels)))
    figure.update_layout(height=top + 30 + 13 * len(names), showlegend=False, margin={"t": top, "b": 30})
    return figure
