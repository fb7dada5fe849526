"""A plan from what a store holds: the runs of a sweep as they were planned, whatever the YAML files say today."""

from __future__ import annotations

from collections.abc import Collection

from vitq.config import LauncherConfig, RunConfig
from vitq.errors import ConfigError, VitqError
from vitq.mirror import run_label
from vitq.plan import Plan, PlannedRun
from vitq.store import Store
from vitq.sweep import SweepConfig


def stored_plan(store: Store, sweep: str, only: Collection[str] | None = None) -> Plan:
    """The unfinished runs of a stored sweep, or those of `only`. Raises StoreError, and VitqError when none is left."""
    record = store.read_sweep(sweep)
    runs, problems = [], []
    launcher: LauncherConfig | None = None
    for signature in record.signatures:
        if only is not None and signature not in only:
            continue
        run_dir = store.run(signature)
        if run_dir.is_done():
            continue
        config, found = RunConfig.parse(run_dir.read_config())
        if config is None:
            problems += [f"{run_dir.config_path}: {line}" for line in found]
            continue
        launcher = launcher or config.launcher
        runs.append(PlannedRun(signature, config, run_label(config), (), done=False))
    if problems:
        raise ConfigError(problems)
    if launcher is None:
        raise VitqError(f"sweep {sweep!r} has no run to do; `vitq status {sweep}` shows where its runs stand")
    facts = SweepConfig(name=record.name, description=record.description, baseline=record.baseline)
    return Plan(tuple(runs), store, launcher, len(runs), facts, record.axes)
