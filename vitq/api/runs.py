"""Runs and sweeps as the command line makes them: the same configs, signatures and store, so each is computed once."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitq.config.search_path import ConfigPath, headline, sweep_file
from vitq.errors import VitqError
from vitq.planning import compose, planner
from vitq.planning.cancel import cancel
from vitq.planning.compose import Primary
from vitq.planning.display import Show
from vitq.planning.launcher import launch, launcher_of
from vitq.planning.pilots import pilots_first
from vitq.planning.plan import Plan, PlannedRun
from vitq.progress import Progress
from vitq.report import FORMATS
from vitq.store import Run as StoredRun
from vitq.store import Store

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from vitq.api.network import QuantizedNetwork

Folder = str | os.PathLike[str]


class Run(StoredRun):
    """One run of a store.

    signature, label, config; state (planned, running, done, failed, interrupted, unreadable), reason, attempt; metrics
    and result, None before it is done; sites, a DataFrame with one row a site; predictions, arrays per evaluation
    image; log, text. Everything is read from the store when it is asked for.
    """

    def model(self, device: str = "auto", progress: Progress | None = None) -> QuantizedNetwork:
        """The quantized model, on a device: the one that the run kept (`keep_model=true`), else its recipe is executed
        again, and the outcome is compared with the record. Raises VitqError without a result, and where they differ.
        """
        from vitq import data
        from vitq import device as devices
        from vitq.api.network import QuantizedNetwork, load
        from vitq.job.requantize import requantize

        if self.dir.model_path.exists() and self.is_done:
            return load(self.dir.model_path).to(devices.resolve(device))
        listener, config = progress or Progress(), replace(self.config, device=device)
        model = requantize(self.dir, config, listener)
        self.dir.clear_state()
        result = self.dir.require_result()
        images = data.calibration_set(config, listener)
        calib, _ = next(images.batches(min(config.calib.size, config.calib.batch_size), "cpu"))
        return QuantizedNetwork(model, self.config, result.size.fp_bytes, calib)

    def float_model(self) -> nn.Module:
        """The full-precision model with its weights, a plain timm module on the CPU, in evaluation mode."""
        from vitq.models.load import load_model

        return load_model(self.config.model, self.config.data, self.config.cache_dir, Progress())


class Sweep:
    """A sweep of a store. name; runs, in the order of the plan."""

    def __init__(self, store: Store, name: str, part: Collection[str] | None = None):
        """part: signatures of the runs that were asked for, where the sweep has others too. Raises StoreError for a
        sweep that was never started."""
        self.store, self.name, self._part = store, store.read_sweep(name).name, part

    def __repr__(self) -> str:
        return f"Sweep({self.name!r}, {str(self.store.root)!r})"

    @property
    def runs(self) -> list[Run]:
        """Of the sweep as it was planned last."""
        runs = self.store.runs_of(self.name)
        return [Run(run.dir) for run in runs if self._part is None or run.signature in self._part]

    def table(self) -> pd.DataFrame:
        """One row a run, failed and unfinished ones too; columns in `vitq.report.runs_table.COLUMNS`."""
        from vitq import report

        table = report.table(self.store, self.name)
        return table if self._part is None else table[table["signature"].isin(list(self._part))]

    def compare(self, a: str, b: str) -> pd.DataFrame:
        """Where methods a and b met, one row for each model, data, bits and calibration size: difference (a − b, points
        of top-1), low and high (95 %), p, n (images), seeds, note; p_holm, over these rows, with its interval (low_holm
        to high_holm) of `level` percent. Raises VitqError for a method that is in no pair.
        """
        from vitq.report.comparison import between, pairwise

        return between(pairwise(self.store, self.table()), a, b).drop(columns="outcomes")

    def report(self, formats: Sequence[str] = FORMATS, out: Folder | None = None) -> dict[str, Path]:
        """Write the report; format → file. out: folder, None for that of the sweep in its store."""
        from vitq import report

        return report.build(self.store, self.name, formats, None if out is None else Path(out))

    def cancel(self) -> list[str]:
        """End what executes its runs; a line for each driver, job and process that is ended, or is out of reach."""
        ended, elsewhere = cancel(self.store, self.name)
        return [*ended, *elsewhere]


class RunStore(Store):
    """The runs and sweeps under one folder. Nothing is created by looking."""

    def find(self, beginning: str) -> Run:
        """The one run whose signature begins so. Raises StoreError where there is none, or more than one."""
        return Run(super().find(beginning).dir)

    def runs(self) -> list[Run]:
        """All planned runs, by signature."""
        return [Run(self.run(signature)) for signature in self.signatures()]

    def sweep(self, name: str) -> Sweep:
        """A sweep by its name. Raises StoreError for one that was never started."""
        return Sweep(self, name)


def store(runs_dir: Folder = "runs") -> RunStore:
    """The runs and sweeps under a folder."""
    return RunStore(runs_dir)


def run(
    *overrides: str, config_dir: Folder | None = None, launcher: str | None = None, progress: Progress | None = None
) -> Run:
    """Execute one configuration as `vitq run` does, or find its result where it was computed before.

    overrides: `"method=repq_vit"`, `"calib.size=64"` … in Hydra's grammar; `runs_dir=` and `cache_dir=` too.
    config_dir: folder of config groups of your own. launcher: inline (this process), local or slurm. progress: called
    with the stages. Raises ConfigError (with `problems`) for what is wrong before the start, VitqError with the
    recorded reason for a run that failed.
    """
    words = [*overrides, *([f"launcher={launcher}"] if launcher else [])]
    plan = _planned(compose.load(*compose.root_config(config_dir), words), ["run", *words])
    failed = launch(plan, _Quiet(plan.name or "", len(plan.runs), progress))
    done = Run(plan.store.run(plan.runs[0].signature))
    if failed:
        text = f"run {done.signature} ({done.label}) failed: {done.reason}; its log: {done.dir.log_path}"
        raise VitqError(text, "run", done.signature)
    return done


def sweep(
    name_or_path: Folder,
    /,
    *overrides: str,
    name: str | None = None,
    config_dir: Folder | None = None,
    launcher: str | None = None,
    detach: bool = False,
    progress: Progress | None = None,
) -> Sweep:
    """Execute every run of a sweep that has no result yet, as `vitq sweep` does. Finished ones are not repeated.

    name_or_path: name of `vitq list sweeps`, or the path of a YAML file. overrides: on top of it; one of an axis
    replaces it. name: to record it under, in place of its own. detach: return at once; a scheduler, or a process in the
    background, executes the runs. Others: see `run`. A run that fails stops no other: its `state` and `reason` say so.
    """
    words = [*overrides, *([f"launcher={launcher}"] if launcher else [])]
    file = sweep_file(os.fspath(name_or_path))
    primary = compose.load(file, ConfigPath.of(config_dir), words, multirun=True)
    if name is not None:
        primary = replace(primary, sweep={**primary.sweep, "name": name})
    plan = _planned(primary, ["sweep", os.fspath(name_or_path), *words])
    if detach:
        launcher_of(plan).detach(plan, _Quiet(plan.name or "", len(plan.runs), progress))
    else:
        launch(plan, _Quiet(plan.name or "", len(plan.runs), progress))
    return Sweep(plan.store, str(plan.name), [run.signature for run in plan.runs] if plan.part else None)


def list_methods(config_dir: Folder | None = None) -> dict[str, str]:
    """Name of every recipe (`method=…`) → what it is, one line."""
    return _group("method", config_dir)


def list_models(config_dir: Folder | None = None) -> dict[str, str]:
    """Name of every model config (`model=…`) → what it is, one line. `vitq.quantize` takes a model itself."""
    return _group("model", config_dir)


def _group(group: str, config_dir: Folder | None) -> dict[str, str]:
    return {name: headline(path) for name, path in ConfigPath.of(config_dir).files(group).items()}


def _planned(primary: Primary, command: Sequence[str]) -> Plan:
    typed = shlex.join(["vitq", *command])
    plan = pilots_first(lambda: planner.make(primary, command=typed), lambda name, runs: _Quiet(name, runs, None))
    for line in plan.warnings:
        warnings.warn(line, stacklevel=3)
    plan.commit(typed)
    return plan


class _Quiet(Show):
    """Prints nothing; the caller's progress is called for every run."""

    def __init__(self, name: str, total: int, progress: Progress | None):
        from rich.console import Console

        super().__init__(Console(quiet=True), name, total)
        self._progress = progress or Progress()

    def running(self, run: PlannedRun) -> Progress:
        return self._progress
