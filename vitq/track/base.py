"""What a tracker is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vitq.config import RunConfig
from vitq.errors import VitqError
from vitq.store.result import Result
from vitq.store.rundir import RunDir

if TYPE_CHECKING:
    import pandas as pd


class TrackedRun:
    """One run under way in a tracker; this one is tracked nowhere."""

    def result(self, result: Result, sites: pd.DataFrame) -> None:
        """Mirror a stored result: metrics as summary, `sites` (one row per site) as a table. Never raises."""


class Tracker:
    """Where runs are mirrored to; this one mirrors nothing."""

    @contextmanager
    def run(self, config: RunConfig, signature: str, group: str | None, run_dir: RunDir) -> Iterator[TrackedRun]:
        """Track the run executed inside the `with` block; an exception there marks it failed and passes through.

        group: name of the sweep, None for a run of its own. What the run left in `run_dir` by the end of the block
        (artifacts of its steps, probes) is mirrored too.
        """
        yield TrackedRun()


def need_wandb(operation: str, otherwise: str = "") -> None:
    """Raises VitqError where the package wandb is not installed."""
    need_package("wandb", operation, ", ".join(filter(None, ("pip install wandb", otherwise))))


def need_package(package: str, operation: str, advice: str) -> None:
    """Raises VitqError where a package is not installed."""
    if find_spec(package.replace("-", "_")) is None:
        text = f"{operation} needs the package {package}, which is not installed; {advice}"
        raise VitqError(text, "package", package)


def folder(config: RunConfig) -> Path:
    """Where `offline-run-*` lie: `<runs_dir>/wandb`, or `tracker.dir` (with `/wandb` appended where not so named)."""
    base = Path(config.tracker.dir or Path(config.runs_dir) / "wandb").expanduser().absolute()
    return base if base.name == "wandb" else base / "wandb"
