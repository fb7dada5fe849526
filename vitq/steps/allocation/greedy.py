"""Two ways to choose bit-widths under a budget: greedily, and all alike."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitq.errors import VitqError
from vitq.progress import Progress
from vitq.steps.allocation.budget import Bits, Budget
from vitq.steps.allocation.sensitivity import Trial

PathRow = dict[str, Any]
# A quantizer's noise power grows fourfold with each bit less: what a site's next step is expected to cost before it is
# measured. It only orders the measuring (`lazy`); no step is taken unmeasured.
_NEXT = 4.0


def greedy(
    trial: Trial,
    budget: Budget,
    widths: Sequence[int],
    recompute: str,
    progress: Progress,
    alone: Mapping[str, Mapping[int, float]] | None = None,
) -> list[PathRow]:
    """Lower one site by one width at a time until the budget holds; returns the path, `trial` is at its end.

    The next one is the site of least loss increase per share of the budget's excess that it saves. `always` measures
    every site anew before each step; `lazy` measures again only those that stand first, until the first one is measured
    against the current allocation; `never` measures none and goes by `alone`, the loss that each site causes at each
    width when all others are in full precision. The path has the measured loss of every step all the same.
    Raises ValueError for `alone` without `never` and the other way round.
    """
    if (recompute == "never") != (alone is not None):
        raise ValueError(f"greedy: recompute={recompute!r}; never goes by `alone`, and only never does")
    # Where a score costs no evaluation there is nothing to put off.
    candidates = _LowerableSites(trial, budget, widths, alone, lazy=recompute == "lazy")
    rows = [_row(trial, budget)]
    progress.stage("greedy", 100)
    done = 0
    while excess := budget.excess(trial.bits):
        chosen = candidates.next(version=len(rows))
        if chosen is None:
            raise VitqError(f"allocate: no site left to lower, {excess} above the budget")
        name, value, saved = chosen
        old, loss = trial.bits[name], trial.loss
        width = candidates.lower[old]
        trial.take(name, width)
        change = {"site": name, "from_bits": old, "to_bits": width, "increase": trial.loss - loss, "saved": saved}
        rows.append(_row(trial, budget, step=len(rows), **change, score=value))
        candidates.again(name, value)
        percent = int(100 * (1 - max(candidates.shares_over().values(), default=0.0)))
        progress.advance(max(0, percent - done), name)
        done = max(done, percent)
    return rows


class _LowerableSites:
    """The sites that can still be lowered, ordered by loss increase per share of the excess saved, then by position."""

    def __init__(
        self,
        trial: Trial,
        budget: Budget,
        widths: Sequence[int],
        alone: Mapping[str, Mapping[int, float]] | None,
        lazy: bool,
    ) -> None:
        self.trial, self.budget, self.alone, self.lazy = trial, budget, alone, lazy
        self.lower = {width: below for below, width in zip(sorted(widths), sorted(widths)[1:], strict=False)}
        self._first = budget.excess(trial.bits)
        self._position = {name: position for position, name in enumerate(trial.bits)}
        # (score, position, site, version it was measured at)
        self._heap = [
            (-np.inf, self._position[name], name, -1) for name in trial.bits if trial.bits[name] in self.lower
        ]

    def next(self, version: int) -> tuple[str, float, float] | None:
        """The first site, its score measured at `version` of the allocation, and the share it saves; none where no
        site saves anything. What saves nothing of what is still exceeded never will: limits stay met."""
        if not self.lazy:
            left = ((name, self._relief(name)) for _, _, name, _ in self._heap)
            measured = [(name, self._score(name, saved)) for name, saved in left if saved > 0]
            self._heap = [(score, self._position[name], name, version) for name, score in measured]
        heapq.heapify(self._heap)
        while self._heap:
            value, position, name, at = heapq.heappop(self._heap)
            saved = self._relief(name)
            if saved > 0 and at == version:
                return name, value, saved
            if saved > 0:
                heapq.heappush(self._heap, (self._score(name, saved), position, name, version))
        return None

    def again(self, name: str, value: float) -> None:
        """The site, which was lowered at the score `value`, stands in the order again if it can be lowered further."""
        if self.trial.bits[name] in self.lower:
            self._heap.append((_NEXT * max(value, 0.0), self._position[name], name, -1))

    def shares_over(self) -> dict[str, float]:
        """limit → its excess now by that at the start, of those still exceeded."""
        return {limit: over / self._first[limit] for limit, over in self.budget.excess(self.trial.bits).items()}

    def _relief(self, name: str) -> float:
        """Share of the excess that one step of this site removes, summed over the limits still exceeded.

        What it saves beyond a limit is worth nothing, so that the path ends close to the budget.
        """
        before = self.trial.bits
        after = {**before, name: self.lower[before[name]]}
        share = 0.0
        for limit, over in self.budget.excess(before).items():
            meter = self.budget.meters[limit]
            share += min(meter.measure(before) - meter.measure(after), over) / self._first[limit]
        return share

    def _score(self, name: str, saved: float) -> float:
        now, then = self.trial.bits[name], self.lower[self.trial.bits[name]]
        if self.alone:
            return (self.alone[name][then] - self.alone[name][now]) / saved
        return (self.trial.look(name, then) - self.trial.loss) / saved


def uniform(names: Mapping[str, bool], budget: Budget, widths: Sequence[int]) -> Bits:
    """One width for all weights and one for all activations, as wide and as even as the budget allows.

    names: site → whether it is a weight.
    """
    best: tuple[tuple[int, int, int], Bits] | None = None
    for weight in widths:
        for activation in widths:
            bits = {name: weight if is_weight else activation for name, is_weight in names.items()}
            rank = (min(weight, activation), weight + activation, weight)
            if not budget.excess(bits) and (best is None or rank > best[0]):
                best = (rank, bits)
    if best is None:
        raise VitqError("allocate: no single width fits the budget", "widths", tuple(widths))
    return best[1]


def final(trial: Trial, budget: Budget) -> list[PathRow]:
    """The path of a policy that takes no steps: its allocation alone."""
    return [_row(trial, budget)]


def _row(trial: Trial, budget: Budget, **change: Any) -> PathRow:
    """The trial as it stands, and the change that led to it."""
    return {
        "step": 0,
        "site": None,
        "from_bits": None,
        "to_bits": None,
        "loss": trial.loss,
        "increase": 0.0,
        "saved": 0.0,
        "score": 0.0,
        "evaluations": trial.evaluations,
        **change,
        **budget.measures(trial.bits),
    }
