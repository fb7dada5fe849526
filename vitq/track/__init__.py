"""The mirror of a run in Weights & Biases, and what is done with it later: upload, rebuild, dashboards.

This package alone imports wandb, and only when a run is tracked. The record under `runs_dir` is the truth and is stored
first. So a fault in W&B never stops a run: it becomes a warning in the run's log and on the logger `vitq.track`.
"""

from __future__ import annotations

from vitq.config import TrackerConfig
from vitq.track.base import TrackedRun, Tracker, folder, need_wandb

__all__ = ["TrackedRun", "Tracker", "folder", "make"]


def make(config: TrackerConfig) -> Tracker:
    """The tracker that a config asks for. Raises VitqError when it needs a package that is not installed."""
    if config.name == "none" or config.mode == "disabled":
        return Tracker()
    need_wandb("tracker=wandb", "or tracker=none")
    from vitq.track.session import WandbTracker

    return WandbTracker()
