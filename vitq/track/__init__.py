"""The mirror of a run in Weights & Biases, and what is done with it later: upload, rebuild, dashboards.

This package alone imports wandb, and only when a run is tracked. The record under `runs_dir` is the truth and is stored
first. So a fault in W&B never stops a run: it becomes a warning in the run's log and on the logger `vitq.track`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitq.config import RunConfig, TrackerConfig
from vitq.track.base import TrackedRun, Tracker, folder, need_wandb

if TYPE_CHECKING:
    from vitq.store.studies import StudyDir

__all__ = ["TrackedRun", "Tracker", "folder", "make", "mirror_study"]


def make(config: TrackerConfig) -> Tracker:
    """The tracker that a config asks for. Raises VitqError when it needs a package that is not installed."""
    if not _tracks(config):
        return Tracker()
    need_wandb("tracker=wandb", "or tracker=none")
    from vitq.track.session import WandbTracker

    return WandbTracker()


def mirror_study(config: RunConfig, study_dir: StudyDir) -> None:
    """Mirror a stored study where its trials, which have such a config, are mirrored too. W&B's faults are warnings."""
    if _tracks(config.tracker):
        from vitq.track import study

        study.mirror(config, study_dir)


def _tracks(config: TrackerConfig) -> bool:
    return config.name != "none" and config.mode != "disabled"
