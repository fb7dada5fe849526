"""What `--dry-run` prints: the runs of a plan, what has its result already, and what the rest will cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from vitq.estimate import Cost
    from vitq.plan import Plan


def preview(plan: Plan, as_json: bool, out: TextIO) -> None:
    """Print a plan. Nothing is started or written."""
    from vitq.estimate import History

    history = History.of(plan.store)
    costs = {run.signature: None if run.done else history.cost(run.config) for run in plan.runs}
    if as_json:
        print(json.dumps(_document(plan, costs), indent=2), file=out)
        return
    for run in plan.runs:
        cost = costs[run.signature]
        text = f"  about {cost.seconds:.1f} s, {_gb(cost.memory_bytes)}" if cost else ""
        print(f"{run.signature}  {'done   ' if run.done else 'planned'}  {run.label}{text}", file=out)
    done = sum(run.done for run in plan.runs)
    print(_estimate(plan, costs), file=out)
    print(
        f"{plan.cells} cells, {len(plan.runs)} runs, {done} finished before; nothing was started or written", file=out
    )


def _estimate(plan: Plan, costs: dict[str, Cost | None]) -> str:
    from vitq.estimate import total

    sum_ = total([costs[run.signature] for run in plan.runs if not run.done])
    if not sum_.runs:
        return "nothing left to compute"
    if sum_.unknown == sum_.runs:
        return f"cost of the {sum_.runs} runs to do: unknown, none of these models has a finished run there"
    guess = f" ({sum_.unknown} runs without a finished like, taken as the mean)" if sum_.unknown else ""
    hours = f"{sum_.hours():.2f} hours of one device" if sum_.hours() >= 0.1 else f"{3600 * sum_.hours():.0f} s"
    return f"cost of the {sum_.runs} runs to do: about {hours}{guess}, largest run {_gb(sum_.memory_bytes)}"


def _document(plan: Plan, costs: dict[str, Cost | None]) -> dict[str, object]:
    runs = []
    for run in plan.runs:
        cost = costs[run.signature]
        runs.append(
            {
                "signature": run.signature, "label": run.label, "overrides": run.overrides, "done": run.done,
                "seconds": cost.seconds if cost else None, "memory_bytes": cost.memory_bytes if cost else None,
                "config": run.config.to_dict(),
            }
        )  # fmt: skip
    return {"sweep": plan.name, "cells": plan.cells, "axes": plan.axes, "runs": runs}


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
