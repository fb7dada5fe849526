"""What a tracker is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vitq.config import RunConfig
from vitq.errors import VitqError
from vitq.store.records import Result
from vitq.store.rundir import RunDir

if TYPE_CHECKING:
    import pandas as pd


class TrackedRun(Protocol):
    """One run under way in a tracker."""

    def result(self, result: Result, sites: pd.DataFrame) -> None:
        """Mirror a stored result: metrics as summary, `sites` (one row per site) as a table. Never raises."""


class Tracker(Protocol):
    """Where runs are mirrored to."""

    def run(
        self, config: RunConfig, signature: str, group: str | None, run_dir: RunDir
    ) -> AbstractContextManager[TrackedRun]:
        """Track the run executed inside the `with` block; an exception there marks it failed and passes through.

        group: name of the sweep, None for a run of its own. What the run left in `run_dir` by the end of the block
        (artifacts of its steps, probes) is mirrored too.
        """


def need_wandb(operation: str, otherwise: str = "") -> None:
    """Raises VitqError where the package wandb is not installed."""
    if find_spec("wandb") is None:
        advice = ", ".join(filter(None, ("pip install wandb", otherwise)))
        text = f"{operation} needs the package wandb, which is not installed; {advice}"
        raise VitqError(text, "package", "wandb")


def folder(config: RunConfig) -> Path:
    """Where `offline-run-*` lie: `<runs_dir>/wandb`, or `tracker.dir` (with `/wandb` appended where not so named)."""
    base = Path(config.tracker.dir or Path(config.runs_dir) / "wandb").expanduser().absolute()
    return base if base.name == "wandb" else base / "wandb"


class NullTracker:
    """Tracks nothing."""

    @contextmanager
    def run(self, config: RunConfig, signature: str, group: str | None, run_dir: RunDir) -> Iterator[TrackedRun]:
        """See Tracker."""
        yield Untracked()


class Untracked:
    """A run that is not tracked."""

    def result(self, result: Result, sites: pd.DataFrame) -> None:
        """See TrackedRun."""
