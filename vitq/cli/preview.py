"""What `--dry-run` prints: the runs of a plan, what has its result already, and what the others will cost."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, TextIO

from vitq.planning.wording import count

if TYPE_CHECKING:
    from vitq.planning.estimate import Estimate, Total
    from vitq.planning.launcher import Preview
    from vitq.planning.plan import Plan


def preview(plan: Plan, as_json: bool, out: TextIO) -> None:
    """Print a plan. Nothing is started or written."""
    from vitq.config.labels import star_note
    from vitq.planning.estimate import History, total
    from vitq.planning.launcher import launcher_of

    history = History.of(plan.store)
    costs = {run.signature: None if run.done else history.estimate(run.config, run.images) for run in plan.runs}
    left = [run for run in plan.runs if not run.done]
    sum_ = total([costs[run.signature] for run in left])
    outlined = launcher_of(plan).preview(left, history)
    if as_json:
        print(json.dumps(_document(plan, costs, sum_, outlined), indent=2), file=out)
        for line in plan.warnings:
            print(f"vitq: {line}", file=sys.stderr)
        return
    for run in plan.runs:
        cost = costs[run.signature]
        text = f"  about {cost.seconds:.1f} s, {_gb(cost.memory_bytes)}" if cost else ""
        print(f"{run.signature}  {'done   ' if run.done else 'planned'}  {run.label}{text}", file=out)
    if note := star_note(run.label for run in plan.runs):
        print(note, file=out)
    if left:
        print(outlined.text, file=out)
    print(_estimate(sum_, outlined), file=out)
    done = len(plan.runs) - len(left)
    what = f"{count(plan.cells, 'cell')}, {count(len(plan.runs), 'run')}, {done} finished before"
    print(f"{what}; nothing was started or written", file=out)
    if plan.pilots:
        said = "what they cost turns sweep.budget_seconds into iterations. Runs that learn are not listed yet"
        print(f"{count(len(plan.pilots), 'pilot')} first: {said}", file=out)
    if other := [run for run in plan.runs if run.other_code]:
        print(f"{len(other)} of them by other code ({other[0].other_code}); --again computes them anew", file=out)
    for line in plan.notes:
        print(line, file=out)
    for line in plan.warnings:
        print(f"warning: {line}", file=out)


def _estimate(sum_: Total, outlined: Preview) -> str:
    if not sum_.runs:
        return "nothing left to compute"
    todo = f"cost of the {count(sum_.runs, 'run')} to do:"
    if sum_.unknown == sum_.runs:
        return f"{todo} unknown, no finished run there has the same model and steps"
    guess = f" ({count(sum_.unknown, 'run')} without a finished like, taken as the mean)" if sum_.unknown else ""
    hours = f"{_duration(sum_.hours())} of one device"
    if outlined.gpus:
        hours += f", {sum_.hours() * outlined.gpus:.2g} GPU-hours"
    clock = f", {_duration(sum_.hours() / outlined.parallel)} on the clock" if outlined.parallel > 1 else ""
    return f"{todo} about {hours}{guess}{clock}, largest run {_gb(sum_.memory_bytes)}"


def _duration(hours: float) -> str:
    return f"{hours:.2f} hours" if hours >= 0.1 else f"{3600 * hours:.0f} s"


def _document(plan: Plan, costs: dict[str, Estimate | None], sum_: Total, outlined: Preview) -> dict[str, object]:
    runs = []
    for run in plan.runs:
        cost = costs[run.signature]
        runs.append(
            {
                "signature": run.signature, "label": run.label, "overrides": run.overrides, "done": run.done,
                "seconds": cost.seconds if cost else None, "memory_bytes": cost.memory_bytes if cost else None,
                "stream_bytes": run.room[0] if run.room else None, "config": run.config.to_dict(),
            }
        )  # fmt: skip
    hours = sum_.hours() if sum_.unknown < sum_.runs else None
    todo = {
        "runs": sum_.runs, "without_estimate": sum_.unknown, "device_hours": hours,
        "gpu_hours": None if hours is None else hours * outlined.gpus, "memory_bytes": sum_.memory_bytes or None,
        "launcher": plan.launcher.name, "allocations": outlined.allocations, "parallel": outlined.parallel,
    }  # fmt: skip
    pilots = [run.signature for run in plan.pilots]
    return {"sweep": plan.name, "pilots": pilots, "cells": plan.cells, "axes": plan.axes, "todo": todo, "runs": runs}


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
