"""Losses over iterations, each kind on an x-axis of its own."""

from __future__ import annotations

from typing import Any

import pandas as pd

from vitq.track.values import rows_of

# Points of one curve that are shown; W&B itself draws at most this many of a longer one, chosen at random.
_POINTS = 200
_PATH_COLUMNS = ("loss", "mean_weight_bits", "mean_activation_bits", "size_mb", "bops")


def log(run: Any, curves: pd.DataFrame) -> None:
    """Reconstruction losses: one metric `curves/<step>/<segment>` for each curve, over `curves/iteration`.

    curves: columns step, segment, iteration, loss. Longer curves are thinned evenly; first and last point stay.
    """
    _axis(run, "curves", "iteration")
    table = curves.assign(name=[f"{s}/{g}".replace(".", "/") for s, g in zip(curves.step, curves.segment, strict=True)])
    wide = table.pivot_table(index="iteration", columns="name", values="loss", aggfunc="last", sort=True)
    chosen = wide.iloc[thinned(len(wide))]
    names = [f"curves/{name}" for name in chosen.columns]
    for iteration, losses in zip(chosen.index.tolist(), rows_of(chosen), strict=True):
        known = {name: loss for name, loss in zip(names, losses, strict=True) if loss is not None}
        run.log({"curves/iteration": iteration, **known})


def log_path(run: Any, path: pd.DataFrame) -> None:
    """The path of a bit allocation: loss and costs over `allocation/step`."""
    _axis(run, "allocation", "step")
    columns = [name for name in _PATH_COLUMNS if name in path.columns]
    chosen = path.iloc[thinned(len(path))]
    rows = rows_of(chosen[["step", *columns]])
    for step, *values in rows:
        costs = {f"allocation/{n}": float(v) for n, v in zip(columns, values, strict=True) if v is not None}
        run.log({"allocation/step": int(step), **costs})


def thinned(length: int, points: int = _POINTS) -> list[int]:
    """At most `points` indices of `length`, evenly spread, first and last among them."""
    if length <= points:
        return list(range(length))
    return sorted({round(i * (length - 1) / (points - 1)) for i in range(points)})


def _axis(run: Any, group: str, name: str) -> None:
    # Last values are in the tables; in the summary they would crowd out the metrics that runs are compared by.
    run.define_metric(f"{group}/{name}", hidden=True, summary="none")
    run.define_metric(f"{group}/*", step_metric=f"{group}/{name}", summary="none")
