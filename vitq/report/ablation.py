"""What each change of a method brings: a waterfall over the variants of one method, in the order of the plan."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import plotly.graph_objects as go

from vitq.plots.layout import finish
from vitq.plots.palette import PALETTE
from vitq.report import wording
from vitq.report.accuracy_table import primary, summary

# So many variants are drawn; more belong into the table.
MOST = 16


def waterfalls(df: pd.DataFrame) -> list[tuple[str, go.Figure]]:
    """(title, figure) for every method of which a sweep holds several variants with the same model, data and bits.

    df: from `table`, runs of one task. The first variant stands as it is, each further one as its change in points from
    the one before it, the last one in full again: bars say what a step of the sweep's order changed, not what a part is
    worth alone.
    """
    names = df.drop_duplicates("method").set_index("method")["method_name"]
    score, scored = primary(df)
    cells = summary(scored[(scored["bits"] != "FP") & (scored["model"] != "?")])
    cells = cells[cells["top1"].notna()].assign(name=lambda c: c["method"].map(names))
    figures = []
    for (model, data, bits, calib, name), part in cells.groupby(
        ["model", "data", "bits", "calib", "name"], sort=False, dropna=False
    ):
        if 1 < len(part) <= MOST:
            title = f"{name} on {model}, {data}, {bits}" + (
                "" if part["calib"].isna().any() else f", {calib} calibration images"
            )
            figures.append((title, _waterfall(part, str(name), score)))
    return figures


def _waterfall(part: pd.DataFrame, name: str, score: str) -> go.Figure:
    labels = [variant(str(m), name) for m in part["method"]]
    values = part["top1"].tolist()
    steps = [values[0], *(after - before for before, after in pairwise(values)), values[-1]]
    texts = [f"{values[0]:.2f}", *(wording.signed(step) for step in steps[1:-1]), f"{values[-1]:.2f}"]
    figure = go.Figure(
        go.Waterfall(
            y=[*labels, f"= {labels[-1]}"], x=steps, text=texts, orientation="h", name=name,
            measure=["absolute", *["relative"] * (len(values) - 1), "total"], textposition="outside",
            increasing={"marker": {"color": PALETTE[2]}}, decreasing={"marker": {"color": PALETTE[3]}},
            totals={"marker": {"color": PALETTE[0]}}, cliponaxis=False,
            customdata=[*values, values[-1]], hovertemplate=f"%{{y}}<br>{score} %{{customdata:.2f}} %<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(
        title="top-1 accuracy, %" if score == "top-1" else f"{score}, %",
        range=[0, 112],
        tickvals=list(range(0, 101, 20)),
    )
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    finish(figure)
    figure.update_layout(height=110 + 30 * len(steps), showlegend=False)
    return figure


def variant(label: str, name: str) -> str:
    """`steps.stage1.enabled=false` of `ias_vit (steps.stage1.enabled=false)`."""
    return label.removeprefix(name).strip().removeprefix("(").removesuffix(")") or label
