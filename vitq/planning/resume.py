"""A plan from what a store holds: the runs of a sweep as they were planned, whatever the YAML files say today."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from omegaconf import OmegaConf

from vitq.config import LauncherConfig
from vitq.config.search_path import ConfigPath
from vitq.config.sweep import SweepConfig
from vitq.errors import ConfigError, Problem, VitqError, unknown
from vitq.planning.launcher import launcher_problems
from vitq.planning.plan import Plan, PlannedRun
from vitq.store import Store, claim


def stored_plan(
    store: Store, sweep: str, only: Collection[str] | None = None, launcher_overrides: Sequence[str] = ()
) -> Plan:
    """The unfinished runs of a stored sweep, or those of `only`. Raises StoreError, and VitqError when none is left.

    launcher_overrides: `launcher=NAME`, `launcher.options.KEY=VALUE`, in place of what the sweep was started with.
    Raises ConfigError for other keys.
    """
    record = store.read_sweep(sweep)
    runs: list[PlannedRun] = []
    problems: list[Problem] = []
    # What the sweep says; its runs may have been planned by another sweep since.
    launcher = LauncherConfig(**record.launcher) if record.launcher else None
    for run in store.runs_of(sweep):
        if only is not None and run.signature not in only:
            continue
        if run.is_done:
            claim.remove_leftovers(run.dir)
            continue
        try:
            launcher = launcher or run.config.launcher
            runs.append(PlannedRun(run.signature, run.config, run.label, (), done=False))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    if not runs or launcher is None:
        text = f"sweep {sweep!r} has no run to do; `vitq status {sweep}` shows where its runs stand"
        raise VitqError(Problem(text, "sweep", sweep))
    launcher = changed(launcher, launcher_overrides)
    about = SweepConfig(name=record.name, description=record.description, baseline=record.baseline)
    return Plan(tuple(runs), store, launcher, len(runs), about, record.axes)


def changed(launcher: LauncherConfig, overrides: Sequence[str]) -> LauncherConfig:
    """A launcher with overrides. `launcher=NAME` starts from that one's own defaults. Raises ConfigError."""
    if not overrides:
        return launcher
    if foreign := [override for override in overrides if not override.startswith(("launcher=", "launcher.options."))]:
        valid = ("launcher=…", "launcher.options.…")
        why = f"retry goes by the stored configs; valid: {', '.join(valid)}"
        raise ConfigError([Problem(f"{word}: {why}", word.partition("=")[0], word, valid) for word in foreign])
    chosen = [override for override in overrides if override.startswith("launcher=")]
    raw: Any = {"name": launcher.name, "options": launcher.options}
    if chosen:
        name, files = chosen[-1].partition("=")[2], ConfigPath.of().files("launcher")
        if name not in files:
            raise ConfigError([unknown("launcher", name, files, key="launcher")])
        raw = OmegaConf.load(files[name])
    options = OmegaConf.from_dotlist([override for override in overrides if override not in chosen])
    merged: Any = OmegaConf.to_container(OmegaConf.merge({"launcher": raw}, options))
    made = LauncherConfig(**merged["launcher"])
    if problems := launcher_problems(made):
        raise ConfigError(problems)
    return made
