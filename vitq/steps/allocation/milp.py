"""Bit-widths by integer programming: the exact optimum of a sum of losses under a budget."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from vitq.errors import VitqError
from vitq.steps.allocation.budget import Bits, Budget

# Site → width → loss that this site causes alone.
Losses = Mapping[str, Mapping[int, float]]
# Limits tightened by these shares, in turn, where the solver's tolerance let an allocation slip above the budget.
_MARGINS = (0.0, 1e-6, 1e-5)
# scipy.optimize.milp's status for a limit of time or iterations.
_TIME_LIMIT = 1
LOG = logging.getLogger("vitq.steps")


def milp(losses: Losses, budget: Budget, seconds: float) -> Bits:
    """The allocation of least summed loss within the budget (scipy, HiGHS).

    Raises VitqError where the solver finds none in `seconds`. Where it finds one and cannot prove in that time that it
    is the best, that one is returned, with a warning on the logger `vitq.steps`.
    """
    program = _Program(losses, budget)
    for margin in _MARGINS:
        bits = program.solve(seconds, margin)
        if not budget.excess(bits):
            return bits
    excess = budget.excess(bits)
    text = f"allocate: the solver exceeds the budget by {excess}; use policy greedy"
    raise VitqError(text, "policy", excess, ["greedy"])


class _Program:
    """Columns: one binary for each site and width; one variable in [0, 1] for each pair of widths of two sites whose
    product costs something (bops), which is the product of the two binaries. Rows: what ties them, and the limits."""

    def __init__(self, losses: Losses, budget: Budget):
        self._losses, self._budget = losses, budget
        self._columns: dict[tuple[object, ...], int] = {}
        self._rows: list[tuple[dict[int, float], float, float]] = []
        for name, widths in losses.items():
            chosen = {self._column(name, width): 1.0 for width in widths}
            self._rows.append((chosen, 1.0, 1.0))
        self._whole = len(self._columns)
        for a, b in sorted({(a, b) for limit in budget.limits for a, b, _ in budget.meters[limit].pairs}):
            self._pair(a, b)

    def _column(self, *key: object) -> int:
        return self._columns.setdefault(key, len(self._columns))

    def _pair(self, a: str, b: str) -> None:
        """Σ_j y(i, j) = x(a, i) and Σ_i y(i, j) = x(b, j)."""
        for i in self._losses[a]:
            row = {self._column(a, b, i, j): 1.0 for j in self._losses[b]}
            self._rows.append(({**row, self._column(a, i): -1.0}, 0.0, 0.0))
        for j in self._losses[b]:
            row = {self._column(a, b, i, j): 1.0 for i in self._losses[a]}
            self._rows.append(({**row, self._column(b, j): -1.0}, 0.0, 0.0))

    def _limit(self, name: str, margin: float) -> tuple[dict[int, float], float, float]:
        meter = self._budget.meters[name]
        row = {self._column(site, width): c for site, costs in meter.costs.items() for width, c in costs.items()}
        for a, b, factor in meter.pairs:
            row |= {self._column(a, b, i, j): factor * i * j for i in self._losses[a] for j in self._losses[b]}
        scale = max(map(abs, row.values()), default=0.0) or 1.0
        room = (self._budget.limits[name] - meter.constant) * (1 - margin) / scale
        return {column: c / scale for column, c in row.items()}, -np.inf, room

    def solve(self, seconds: float, margin: float) -> Bits:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array

        rows = [*self._rows, *(self._limit(name, margin) for name in self._budget.limits)]
        entries = [(number, column, c) for number, (row, _, _) in enumerate(rows) for column, c in row.items()]
        index, column, data = (np.array(part) for part in zip(*entries, strict=True))
        matrix = coo_array((data, (index, column)), shape=(len(rows), len(self._columns))).tocsr()
        objective = np.zeros(len(self._columns))
        for name, widths in self._losses.items():
            for width, loss in widths.items():
                objective[self._column(name, width)] = loss
        # The solver's gap is absolute too, and losses in nats may be tiny.
        objective *= 1e3 / max(float(np.abs(objective).max()), 1e-30)
        integral = np.zeros(len(self._columns), dtype=np.int8)
        integral[: self._whole] = 1
        solution = milp(
            objective,
            integrality=integral,
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix, [low for _, low, _ in rows], [high for _, _, high in rows]),
            options={"time_limit": seconds, "mip_rel_gap": 0.0},
        )
        if solution.x is not None and solution.status == _TIME_LIMIT:
            LOG.warning(
                "allocate: %g seconds did not suffice to prove that this allocation is the best, so another machine "
                "may find another; raise method.steps.<name>.seconds",
                seconds,
            )
        if solution.x is None:
            raise VitqError(f"allocate: the integer program has no solution ({solution.message}); use policy greedy")
        return {
            name: max(widths, key=lambda width: float(solution.x[self._column(name, width)]))
            for name, widths in self._losses.items()
        }
