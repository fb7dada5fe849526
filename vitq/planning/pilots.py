"""The pilots of a sweep with a budget, executed before its runs can be planned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from vitq.errors import VitqError
from vitq.planning.budget import KEY
from vitq.planning.display import Show
from vitq.planning.launcher import launch
from vitq.planning.plan import Plan
from vitq.store import RunDir
from vitq.store.claim import Claim


def pilots_first(make: Callable[[], Plan], show: Callable[[str, int], Show]) -> Plan:
    """The whole plan of a sweep. make: plans it, once more after its pilots have run; show: display of so many runs.

    Pilots are runs of the sweep `NAME-pilots`. Raises VitqError where one of them has no result.
    """
    plan = make()
    if not plan.pilots or plan.sweep is None:
        return plan
    name = f"{plan.sweep.name}-pilots"
    text = f"A few iterations of each method of {plan.sweep.name}: what they cost says how many a budget allows."
    sweep = dataclasses.replace(plan.sweep, name=name, description=text, baseline=None, exclude=(), budget_seconds=None)
    # Again: one that goes on from what an earlier attempt began says nothing of the cost.
    pilots = dataclasses.replace(plan, runs=plan.pilots, sweep=sweep, axes={}, pilots=(), part=False, again=True)
    pilots.commit()
    for run in pilots.runs:
        _from_the_start(pilots.store.run(run.signature))
    launch(pilots, show(name, len(pilots.runs)))
    plan = make()
    if plan.pilots:
        said = f"{len(plan.pilots)} pilots have no result, so the iterations of their methods are not known"
        raise VitqError(f"{said}; `vitq status {name}` says why", KEY, name)
    return plan


def _from_the_start(run_dir: RunDir) -> None:
    """What a killed attempt left is not gone on from; one that another process works on is left to it."""
    claim = Claim.take(run_dir)
    if claim is not None:
        with claim:
            run_dir.clear_state()
