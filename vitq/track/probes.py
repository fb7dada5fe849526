"""Pictures and numbers of probes, as W&B shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitq.errors import StoreError
from vitq.probes.stored_probe import META, meta_of, scalars_of
from vitq.store.rundir import RunDir

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Name of a plane; its arrays: coordinates and losses.
_PLANES = (
    ("random", "random.axis", "random.axis", "random.loss"),
    ("plane", "plane.x", "plane.y", "plane.loss"),
    ("block_channel", "block.scale", "block.weight", "block.channel"),
    ("block_tensor", "block.scale", "block.weight", "block.tensor"),
)


def names(run_dir: RunDir) -> list[str]:
    """Probes that left a picture, sorted."""
    return sorted(path.stem for path in run_dir.probes_dir.glob("*.png"))


def made(run_dir: RunDir) -> dict[str, str]:
    """Probe → when it was made, of those that are complete and readable: what a mirror should show."""
    times = {}
    for name in run_dir.probes():
        try:
            arrays = run_dir.read_probe(name)
        except StoreError:
            continue  # `vitq probe` makes it anew
        if arrays is not None and META in arrays:
            times[name] = str(meta_of(arrays).get("made_at", ""))
    return times


def sensitivity(run_dir: RunDir) -> pd.DataFrame | None:
    """Columns site, bits, loss (KL, nats) of the probe `sensitivity`; None where it did not look at single sites."""
    arrays = run_dir.read_probe("sensitivity")
    if arrays is None or meta_of(arrays)["options"]["by"] != "site":
        return None
    frame = pd.DataFrame(arrays["kl"], index=arrays["name"], columns=arrays["width"])
    long: pd.DataFrame = frame.rename_axis("site").reset_index().melt("site", var_name="bits", value_name="loss")
    return long


def log(run_dir: RunDir, name: str, run: Any) -> None:
    """Log one probe's picture as `probes/<name>`; a landscape's surfaces to turn around as `probes/<name>/<view>`, and
    its numbers as `probes/<name>/<view>.<number>` in the summary.
    """
    import wandb

    run.log({f"probes/{name}": wandb.Image(str(run_dir.probe_picture_path(name)))})
    arrays = run_dir.read_probe(name)
    if arrays is None:
        return
    for view, figure in surfaces(arrays):
        run.log({f"probes/{name}/{view}": wandb.Plotly(figure)})
    run.summary.update({f"probes/{name}/{key}": value for key, value in scalars_of(arrays).items()})


def surfaces(arrays: dict[str, np.ndarray]) -> list[tuple[str, go.Figure]]:
    """(view, figure) of the planes that a probe measured."""
    from vitq.plots.landscape_views import surface

    return [
        (view, surface(arrays[x], arrays[y], arrays[values], view))
        for view, x, y, values in _PLANES
        if values in arrays
    ]
