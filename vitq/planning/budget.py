"""Equal effort: how many iterations a recipe may have so that its steps take `sweep.budget_seconds`.

A pilot, the same run with few iterations, says what an iteration costs. It is an ordinary run of the store, so the
number of iterations, and with it the signature, is the same whenever the sweep is planned again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from vitq.config import RunConfig
from vitq.errors import Problem
from vitq.store.result import Result

# Iterations of a pilot: enough that the first ones, which are slower, do not count much. Fewer where the budget is less
# than SECONDS, so that a pilot on a slow device does not cost many times what it is for, but FEWEST at least.
PILOT = 50
FEWEST = 5
SECONDS = 1200
# What SECONDS was before iterations were timed apart: such a pilot that is there is as good.
EARLIER = 600
# Images that a pilot scores: its figures are of no use.
SCORED = 64
KEY = "sweep.budget_seconds"


def with_iterations(config: RunConfig, iterations: int) -> RunConfig:
    """The config with another number of iterations."""
    return dataclasses.replace(config, method=dataclasses.replace(config.method, iterations=iterations))


def pilots_of(config: RunConfig, seconds: float) -> list[RunConfig]:
    """Pilots of a run, the same for all seeds: the one to execute, which scores few images, then those of earlier
    versions, the last of which scored all: where one is there, it is as good."""
    limit = min(config.data.eval_limit or SCORED, SCORED)
    choice = (config.data.eval_limit and config.data.eval_choice) or "spread"
    data = dataclasses.replace(config.data, eval_limit=limit, eval_choice=choice)
    method = dataclasses.replace(config.method, rates="paper")  # an iteration costs as much at any rate
    config = dataclasses.replace(config, seed=0, method=method)
    counts = [max(FEWEST, min(PILOT, round(PILOT * seconds / whole))) for whole in (SECONDS, EARLIER)]
    short = [dataclasses.replace(with_iterations(config, count), data=data) for count in dict.fromkeys(counts)]
    return [*short, with_iterations(config, PILOT)]


def given(config: RunConfig) -> Problem | None:
    """Why a run has no budget: its iterations are given."""
    if config.method.iterations is None:
        return None
    text = (
        f"method.iterations={config.method.iterations} and {KEY} both say how long a run learns; leave one of them "
        "out (method.iterations=null where a recipe has it, as tuned ones may)"
    )
    return Problem(text, "method.iterations", config.method.iterations)


def iterations(pilot: RunConfig, result: Result, learning: Sequence[str], seconds: float) -> int | Problem:
    """Iterations of each learning step such that all steps take so many seconds, by a pilot's record.

    learning: names of the steps that iterate. What comes before their iterations (streams, derivatives of the network)
    takes as long however many there are. A problem where all this takes longer already.
    """
    stages = result.timings.stages
    # Where the iterations were not timed apart, as by earlier versions, all of the step counts.
    learnt = sum(stages.get(f"iterations.{name}", stages.get(f"steps.{name}", 0.0)) for name in learning)
    fixed = sum(spent for name, spent in stages.items() if name.startswith("steps.")) - learnt
    each = learnt / (pilot.method.iterations or PILOT)
    count = math.floor((seconds - fixed) / each) if each > 0 else 0
    if count < 1:
        needed = fixed + each
        text = f"{seconds:g} s are too few: all but the iterations takes {fixed:.1f} s, one iteration {each:.3g} s"
        return Problem(f"{KEY}={seconds:g}: {text}; give more than {needed:.1f}", KEY, seconds)
    return count
