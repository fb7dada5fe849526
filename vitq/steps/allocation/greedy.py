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
    lower = {width: below for below, width in zip(sorted(widths), sorted(widths)[1:], strict=False)}
    first = budget.excess(trial.bits)
    rows, version = [_row(trial, budget)], 0
    progress.stage("greedy", 100)
    done = 0

    def relief(name: str) -> float:
        """Share of the excess that one step of this site removes, summed over the limits still exceeded.

        What it saves beyond a limit is worth nothing, so that the path ends close to the budget.
        """
        before, after = trial.bits, {**trial.bits, name: lower[trial.bits[name]]}
        share = 0.0
        for limit, over in budget.excess(before).items():
            meter = budget.meters[limit]
            share += min(meter.measure(before) - meter.measure(after), over) / first[limit]
        return share

    def score(name: str, saved: float) -> float:
        now, then = trial.bits[name], lower[trial.bits[name]]
        increase = alone[name][then] - alone[name][now] if alone else trial.look(name, then) - trial.loss
        return increase / saved

    # (score, position, site, version it was measured at)
    order = {name: position for position, name in enumerate(trial.bits)}
    heap = [(-np.inf, order[name], name, -1) for name in trial.bits if trial.bits[name] in lower]
    while excess := budget.excess(trial.bits):
        # Where a score costs no evaluation there is nothing to put off.
        if recompute == "always" or alone is not None:
            left = ((name, relief(name)) for _, _, name, _ in heap)
            heap = [(score(name, saved), order[name], name, version) for name, saved in left if saved > 0]
        heapq.heapify(heap)
        while True:
            if not heap:
                raise VitqError(f"allocate: no site left to lower, {excess} above the budget")
            value, position, name, at = heapq.heappop(heap)
            saved = relief(name)
            if saved <= 0:
                continue  # saves nothing of what is still exceeded, and never will: limits stay met
            if at == version:
                break
            heapq.heappush(heap, (score(name, saved), position, name, version))
        old, loss = trial.bits[name], trial.loss
        width = lower[old]
        trial.take(name, width)
        version += 1
        rows.append(
            _row(
                trial,
                budget,
                step=len(rows),
                site=name,
                from_bits=old,
                to_bits=width,
                increase=trial.loss - loss,
                saved=saved,
                score=value,
            )
        )
        if width in lower:
            heap.append((_NEXT * max(value, 0.0), position, name, -1))
        percent = int(100 * (1 - max((v / first[n] for n, v in budget.excess(trial.bits).items()), default=0.0)))
        progress.advance(max(0, percent - done), name)
        done = max(done, percent)
    return rows


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
