"""Loss landscapes of a sweep's runs side by side, on one colour scale."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from vitq.plots.landscape_views import Tile, contours, lines, path
from vitq.report.probe_data import Arrays, by_model

# Pictures of one model on a page.
MOST = 24


def side_by_side(df: pd.DataFrame, probed: dict[str, Arrays]) -> list[tuple[str, go.Figure]]:
    """(title, figure): for each model its runs' landscapes. df: from `table`; probed: signature → arrays."""
    figures = []
    for model, runs, total in by_model(df, probed, MOST):
        count = "" if total <= MOST else f", the first {MOST} of {total} runs"
        around = [(label, a) for label, a in runs if "random.loss" in a]
        if around:
            tiles = [
                Tile(f"{label}<br>roughness {_rough(a, 'random')}", axis := a["random.axis"], axis, a["random.loss"])
                for label, a in around
            ]
            figures.append(
                (
                    f"{model}: cross-entropy around the model, two random directions (both in filter norms){count}",
                    contours(tiles),
                )
            )
            figures.append((f"{model}: cross-entropy along the first direction{count}", lines(around)))
        figures += _between(model, runs, count)
        blocks = [(label, a) for label, a in runs if "block.channel" in a]
        if blocks:
            tiles = [
                Tile(
                    f"{label}, {granularity}-wise<br>roughness {_rough(a, f'block.{granularity}')}",
                    a["block.scale"],
                    a["block.weight"],
                    a[f"block.{granularity}"],
                )
                for label, a in blocks
                for granularity in ("channel", "tensor")
            ]
            names = ", ".join(sorted({str(a["block.name"]) for _, a in blocks}))
            title = (
                f"{model}: reconstruction loss of {names}, post-LayerNorm channel-wise and tensor-wise (across: change "
                f"of the scales; up: step of the weights, in filter norms){count}"
            )
            figures.append((title, contours(tiles)))
    return figures


def _between(model: str, runs: list[tuple[str, Arrays]], count: str) -> list[tuple[str, go.Figure]]:
    """What lies between full precision and the run's weights: a line each, and a plane where weights were learned."""
    figures = []
    if rounded := [(label, a) for label, a in runs if "path.quantized" in a]:
        title = (
            f"{model}: cross-entropy from full-precision (0) to rounded (1) weights; dotted: activations in fp{count}"
        )
        figures.append((title, path(rounded)))
    if planes := [(label, a) for label, a in runs if "plane.loss" in a]:
        tiles = [
            Tile(
                f"{label}<br>barrier to the learned weights {float(a['plane.scalar.barrier']):.2g}",
                a["plane.x"],
                a["plane.y"],
                a["plane.loss"],
                a["plane.anchors"],
            )
            for label, a in planes
        ]
        title = (
            f"{model}: cross-entropy on the plane of full-precision (circle), rounded (square) and learned (diamond) "
            f"weights{count}"
        )
        figures.append((title, contours(tiles)))
    return figures


def _rough(arrays: Arrays, view: str) -> str:
    return f"{float(arrays[f'{view}.scalar.roughness']):.2f}"
