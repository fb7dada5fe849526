"""The runs of trials: planned like all others, each with its options and with images held out of calibration."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from vitq.config import SCHEMA_VERSION, RunConfig, signature
from vitq.config.sweep import SweepConfig
from vitq.errors import ConfigError
from vitq.planning import compose
from vitq.planning.compose import Primary
from vitq.planning.plan import Plan, PlannedRun
from vitq.planning.planner import Planner
from vitq.store import Store, SweepRecord
from vitq.store.studies import Gain, StudyRecord, TrialRecord


class Trials:
    """Plans single trials of one config: scored on held-out images, looked at by no probe, its model not kept.

    The config is composed once; a trial sets its options in a copy, and is parsed, checked and signed like any run.
    """

    def __init__(self, primary: Primary, held_out: int):
        """Raises ConfigError where the config does not compose."""
        fixed = {"++data.held_out": [str(held_out)], "probe": ["none"], "++keep_model": ["false"]}
        self._primary = dataclasses.replace(primary, axes={**primary.axes, **fixed})
        (self._cell,) = compose.expand(self._primary)

    def plan(self, options: Mapping[str, Any], label: str) -> Plan:
        """The plan of one trial. options: those that are not the recipe's own. Raises ConfigError."""
        raw = copy.deepcopy(self._cell.raw)
        for key, value in options.items():
            *parents, leaf = key.split(".")
            node = raw["method"]
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        trial = Planner(self._primary)
        trial.add(dataclasses.replace(self._cell, raw=raw))
        plan = trial.plan()
        return dataclasses.replace(plan, runs=(dataclasses.replace(plan.runs[0], label=label),))


def plan_of(plans: Sequence[Plan], name: str, description: str) -> Plan:
    """One plan of the runs of several, each once, as those of the sweep `name`."""
    runs: dict[str, PlannedRun] = {run.signature: run for plan in plans for run in plan.runs}
    sweep, problems = SweepConfig.parse({"description": description}, name)
    if sweep is None:
        raise ConfigError(problems)
    return dataclasses.replace(plans[0], runs=tuple(runs.values()), sweep=sweep, cells=len(plans))


def commit(plan: Plan, trials: Sequence[TrialRecord], command: str) -> None:
    """Write the configs of a plan, and the sweep's record, which lists the runs of earlier trials too."""
    dataclasses.replace(plan, sweep=None).commit()
    assert plan.sweep is not None
    name = plan.sweep.name
    known = plan.store.read_sweep(name) if name in plan.store.sweeps() else None
    labels = {**(known.labels if known else {}), **{run.signature: run.label for run in plan.runs}}
    told = [trial.signature for trial in trials if trial.signature]
    signatures = list(dict.fromkeys([*(known.signatures if known else ()), *told, *labels]))
    record = SweepRecord(
        name=name,
        description=plan.sweep.description,
        signatures=signatures,
        command=known.command if known else command,
        launcher=dataclasses.asdict(plan.launcher),
        labels=labels,
    )
    plan.store.write_sweep(record, grown=True)


def outcome(store: Store, run: str) -> tuple[float | None, float | None]:
    """(KL, seconds) of a trial's run; no KL where it has no result, infinite where it is no number."""
    result = store.run(run).read_result()
    if result is None:
        return None, None
    kl = result.metrics.kl
    return float("inf") if kl is None else kl, result.timings.total


def gain(store: Store, study: StudyRecord) -> Gain | None:
    """How much the best trial of a study gains over the recipe's own options, image by image; None where that is the
    best, or a run does not have the KL of each image. Raises StoreError for a record that is unreadable."""
    best, own = study.best, study.own_trial
    if best is None or own is None or best.number == own.number:
        return None
    runs = [store.run(str(trial.signature)) for trial in (own, best)]
    before, after = (run.read_predictions().get("kl") if run.predictions_path.exists() else None for run in runs)
    if before is None or after is None:
        return None
    less = before - after
    return Gain(mean=float(less.mean()), error=float(less.std(ddof=1) / len(less) ** 0.5))


def identity(config: RunConfig) -> str:
    """What the KL of all trials depends on beside their options. config: of the trial with the recipe's own."""
    ranges = {key: dataclasses.asdict(allowed) for key, allowed in config.method.tune.items()}
    return json.dumps([SCHEMA_VERSION, signature(config), ranges], sort_keys=True)
