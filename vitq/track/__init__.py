"""The mirror of a run in Weights & Biases, and what is done with it later: upload, rebuild, dashboards.

This package alone imports wandb, and only when a run is tracked. The record under `runs_dir` is the truth and is stored
first. So a fault in W&B never stops a run: it becomes a warning in the run's log and on the logger `vitq.track`.
"""

from vitq.track.base import NullTracker, TrackedRun, Tracker, folder, make

__all__ = ["NullTracker", "TrackedRun", "Tracker", "folder", "make"]
