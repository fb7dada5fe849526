"""How a run is called at W&B: by what its sweep varies, so that the variants of an ablation have names of their own."""

from __future__ import annotations

import re

from vitq.config import RunConfig, TrackerConfig
from vitq.config.labels import run_label
from vitq.config.signature import VOLATILE
from vitq.config.sweep import lookup
from vitq.errors import Problem, StoreError, bad
from vitq.store import RunDir, Store, SweepRecord

# Axes that a run's label has anyway.
_SHOWN = ("model", "data", "method", "bits", "bits.weight", "bits.activation", "calib", "calib.size", "seed")
# The most characters of a run's name and of a tag that W&B takes.
NAME, TAG = 128, 64


def refused(tracker: TrackerConfig) -> list[Problem]:
    """What W&B would refuse, run by run: asked before anything starts."""
    if tracker.name != "wandb":
        return []
    problems = []
    if not tracker.project or len(tracker.project) > NAME or re.search(r"[/\\#?%:]", tracker.project):
        why = f"a project of W&B has 1 to {NAME} characters, and none of / \\ # ? % :"
        problems.append(bad("tracker.project", tracker.project, why))
    for tag in tracker.tags:
        if not 1 <= len(tag) <= TAG:
            problems.append(bad("tracker.tags", tag, f"a tag of W&B has 1 to {TAG} characters"))
    return problems


def sweep_of(run_dir: RunDir, group: str | None) -> SweepRecord | None:
    """The record of the sweep that a run is executed for; None for none, and where it cannot be read."""
    try:
        return Store(run_dir.path.parent).read_sweep(group) if group else None
    except StoreError:
        return None  # `vitq status` says why; the mirror does without


def variant(config: RunConfig, sweep: SweepRecord | None) -> str:
    """What the sweep varies beyond model, method, bits, calibration size and seed: `weight.granularity=channel`."""
    plain = config.to_dict()
    found = []
    for key, values in (sweep.axes if sweep else {}).items():
        # Where things lie is nobody's business, and no part of what a run is.
        if len(values) < 2 or key in _SHOWN or key in VOLATILE:
            continue
        try:
            value = lookup(key, {}, plain)
        except KeyError:  # a group of the user's own, or a step that this recipe does not have
            continue
        text = str(value).lower() if isinstance(value, bool) or value is None else str(value)
        found.append(f"{'.'.join(key.split('.')[-2:])}={text}")
    return ", ".join(found)


def notes(sweep: SweepRecord | None) -> str | None:
    """What the sweep says of itself, and where its report lies in the store; no path of this machine."""
    if sweep is None:
        return None
    report = f"report: sweeps/{sweep.name}/report.html in the run store (vitq report {sweep.name})"
    return f"{sweep.description}\n\n{report}".strip()


def name_of(config: RunConfig, sweep: SweepRecord | None) -> str:
    """The run's name: `deit_tiny minmax W4A4 c32 s0 weight.granularity=channel`."""
    return f"{run_label(config)} {variant(config, sweep)}".strip()[:NAME]
