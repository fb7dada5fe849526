"""How far the figures of one baseline lie apart, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vitq.published.cell import Cell
from vitq.published.protocol import LABELS, Fact

# What rows are compared in, in order: who ran them, full precision, then the protocol. Notes are no facts.
FIELDS = {"run_by": "who ran it", "full_precision": "full precision"} | {k: v for k, v in LABELS.items() if k != "note"}


# Between the facts of one row at several models.
JOIN = " / "


@dataclass(frozen=True)
class Difference:
    """One fact of the protocol in which rows differ, or may.

    values: fact → labels of the rows that have it; several facts of one row (several models) are joined.
    unknown: labels of the rows that do not state it.
    """

    field: str
    values: dict[str, list[str]]
    unknown: list[str]

    @property
    def name(self) -> str:
        """In words."""
        return FIELDS[self.field]

    @property
    def settled(self) -> bool:
        """At least two rows are known to differ; otherwise some do not say, so that they may."""
        return len(self.values) > 1


@dataclass(frozen=True)
class Spread:
    """The rows of one baseline, model, bit-width and metric, highest first."""

    cells: tuple[Cell, ...]

    @property
    def width(self) -> float:
        """Highest minus lowest value, in the metric's unit."""
        return round(self.cells[0].value - self.cells[-1].value, 3)

    def differences(self) -> list[Difference]:
        """In what the rows differ, or may."""
        return differences(self.cells)


def spreads(cells: Iterable[Cell]) -> list[Spread]:
    """Every baseline, model, bit-width and metric that has several rows, in the order of the cells."""
    groups: dict[tuple[object, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.baseline, cell.model, cell.bits, cell.metric].append(cell)
    return [Spread(tuple(sorted(group, key=lambda cell: -cell.value))) for group in groups.values() if len(group) > 1]


def differences(cells: Sequence[Cell]) -> list[Difference]:
    """In what rows differ or may differ; a row's cells (several models) are taken together."""
    rows: dict[tuple[object, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        rows[cell.label, cell.table, cell.note].append(cell)
    by_label = [key[0] for key in rows]
    names = {key: cell.label if by_label.count(cell.label) == 1 else _long(cell) for key, (cell, *_) in rows.items()}
    differing = []
    for field in FIELDS:
        values: dict[str, list[str]] = defaultdict(list)
        unknown = []
        for key, row in rows.items():
            if facts := _facts(field, row):
                values[JOIN.join(dict.fromkeys(map(str, facts)))].append(names[key])
            else:
                unknown.append(names[key])
        if len(values) > 1 or (values and unknown):
            differing.append(Difference(field, dict(values), unknown))
    return differing


def _long(cell: Cell) -> str:
    return ", ".join(filter(None, [cell.label, cell.table, cell.note]))


def _facts(name: str, cells: Sequence[Cell]) -> list[Fact]:
    if name in LABELS:
        return [cell.facts[name] for cell in cells if name in cell.facts]
    return [value for cell in cells if (value := getattr(cell, name)) is not None]
