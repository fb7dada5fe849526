"""What runs will cost, learnt from the runs that a store holds already."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from vitq.config import RunConfig
from vitq.errors import StoreError
from vitq.store import Store

# What has to agree for a past run to count, from the most alike to the least.
_LIKENESS = (
    ("model", "method", "bits", "calib", "iterations", "eval"),
    ("model", "method", "calib", "iterations", "eval"),
    ("model", "method", "eval"),
    ("model", "method"),
    # Another method, if it does the same things: one that only calibrates says nothing of one that reconstructs.
    ("model", "steps"),
)


# Stages whose seconds grow with the images that are scored.
_SCORING = ("evaluate", "full precision")


class Learnt(NamedTuple):
    """Iterations of a step that learns, and the seconds that they took."""

    step: str
    iterations: int
    seconds: float


class Past(NamedTuple):
    """A finished run. facts: as from `facts`; seconds, memory_bytes: of all of it; scoring: seconds of what grows with
    the scored images, of which it had `images`; learning: what grows with iterations."""

    facts: Mapping[str, Any]
    seconds: float
    memory_bytes: int
    scoring: float = 0.0
    images: int = 0
    learning: tuple[Learnt, ...] = ()

    def scaled(self, config: RunConfig, images: int | None) -> float:
        """Seconds of such a run with the config's iterations that scores so many images; None: as many as it had."""
        seconds = self.seconds
        for learnt in self.learning:
            wanted = _iterations(config, learnt.step)
            seconds += learnt.seconds * (wanted / learnt.iterations - 1) if wanted else 0.0
        if images and self.images:
            seconds += self.scoring * (images / self.images - 1)
        return seconds


@dataclass(frozen=True)
class Estimate:
    """Of one run: seconds and bytes of peak memory, as medians over `runs` past runs alike in `alike`."""

    seconds: float
    memory_bytes: int
    runs: int
    alike: tuple[str, ...]


class History:
    """Finished runs of a store that no earlier attempt began. Unreadable records are left out: an estimate stops
    nothing."""

    def __init__(self, known: Iterable[Past]) -> None:
        self._groups: dict[tuple[Any, ...], list[Past]] = defaultdict(list)
        for past in known:
            for keys in _LIKENESS:
                self._groups[keys, *(past.facts[key] for key in keys)].append(past)

    @classmethod
    def of(cls, store: Store) -> History:
        """All finished runs of a store."""
        known = []
        for signature in store.signatures():
            try:
                result = store.run(signature).read_result()
                config = RunConfig.parse(result.config)[0] if result else None
            except StoreError:
                continue  # damaged records are reported where they matter, by status and report
            if result is not None and config is not None and not result.timings.resumed:
                memory = result.memory.peak_cuda_bytes or result.memory.peak_rss_bytes
                scoring = sum(result.timings.stages.get(stage, 0.0) for stage in _SCORING)
                seconds, images = result.timings.total, result.metrics.n_eval
                learning = tuple(_learning(config, result.timings.stages))
                known.append(Past(facts(config), seconds, memory, scoring, images, learning))
        return cls(known)

    def estimate(self, config: RunConfig, images: int | None = None) -> Estimate | None:
        """Expected cost of a run, None where no past run of its model does what it does.

        images: that it scores. Where past runs scored others, or had other iterations, what they took for one counts.
        """
        wanted = facts(config)
        for keys in _LIKENESS:
            group = self._groups.get((keys, *(wanted[key] for key in keys)))
            if group:
                seconds = median(past.scaled(config, None if "eval" in keys else images) for past in group)
                return Estimate(seconds, int(median(past.memory_bytes for past in group)), len(group), keys)
        return None


def _learning(config: RunConfig, stages: Mapping[str, float]) -> Iterator[Learnt]:
    """Of a finished run, as far as its record tells iterations from what prepares them."""
    for stage, seconds in stages.items():
        kind, _, step = stage.partition(".")
        iterations = _iterations(config, step) if kind == "iterations" else None
        if iterations:
            yield Learnt(step, iterations, seconds)


def _iterations(config: RunConfig, step: str) -> int | None:
    """That a step has by the config; None where the step's own default holds."""
    own = config.method.steps.get(step, {}).get("iterations")
    return config.method.iterations or (own if isinstance(own, int) else None)


def facts(config: RunConfig) -> dict[str, Any]:
    """What the time and memory of a run depend on.

    model: its name, shape and images; detectors of all sizes have one name. steps: what the steps that are switched on
    do. A method of which some are switched off is another one.
    """
    steps = tuple(sorted({str(raw.get("do")) for raw in config.method.enabled.values()}))
    model = config.model
    sides = [model.input_size, model.short_side, model.long_side]
    return {
        "model": (model.name, json.dumps([model.kwargs, sides], sort_keys=True, default=str)),
        "method": (config.method.name, steps),
        "steps": (config.method.quantizes, steps),
        "bits": config.bits.label,
        "calib": config.calib.size,
        "iterations": config.method.iterations,
        "eval": (config.data.name, config.data.held_out or config.data.eval_limit),
    }


@dataclass(frozen=True)
class Total:
    """Of a plan. unknown: runs without an estimate; memory_bytes: of the largest run."""

    runs: int
    unknown: int
    seconds: float
    memory_bytes: int

    def hours(self) -> float:
        """Hours of compute, if the runs without an estimate cost as much as the others on average."""
        known = self.runs - self.unknown
        return self.seconds / 3600 * (self.runs / known if known else float("nan"))


def total(costs: Sequence[Estimate | None]) -> Total:
    """Sum over the runs of a plan."""
    known = [cost for cost in costs if cost is not None]
    memory = max((cost.memory_bytes for cost in known), default=0)
    return Total(len(costs), len(costs) - len(known), sum(cost.seconds for cost in known), memory)
