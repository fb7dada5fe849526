"""All published figures: read from the files, looked up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vitq.errors import ConfigError, VitqError, unknown
from vitq.published.cell import MODELS, Cell, bits_order, task_of
from vitq.published.files import read_files
from vitq.published.source import SourceFile, Statement, Table
from vitq.published.spread import Spread, spreads

TASKS = ("classification", "detection")


@dataclass(frozen=True)
class Figures:
    """Sources by id (name of the file), and the cells of all their tables, sorted."""

    sources: Mapping[str, SourceFile]
    cells: tuple[Cell, ...]

    @staticmethod
    @cache
    def load(folder: Path = Path(__file__).parent) -> Figures:
        """Read and check all files of a folder. Raises ConfigError with every problem of every file."""
        sources, problems = read_files(folder, SourceFile)
        for name, source in sources.items():
            runners = {table.runner(row) for table in source.tables for row in table.rows} - {None}
            strange = [unknown("source in run_by", r, sources, key="run_by") for r in runners if r not in sources]
            problems += [problem.reworded(f"{name}.yaml: {problem}", f"{name}.yaml") for problem in strange]
        if problems:
            raise ConfigError(problems)
        cells = [cell for name in sources for cell in _cells(name, sources)]
        return Figures(sources, tuple(sorted(cells, key=_order)))

    @property
    def claims(self) -> list[tuple[str, Statement]]:
        """(id of the source, statement) of everything that is no cell."""
        return [(name, claim) for name, source in self.sources.items() for claim in source.claims]

    @property
    def methods(self) -> list[str]:
        """Names of all methods with a cell or a statement."""
        return sorted({cell.method for cell in self.cells} | {claim.method for _, claim in self.claims})

    def select(
        self, method: str | None = None, model: str | None = None, bits: str | None = None, task: str | None = None
    ) -> Figures:
        """The cells that match, and the same sources. Raises VitqError for a name that no source has."""
        wanted = {"method": method, "model": model, "bits": None if bits is None else bits.upper(), "task": task}
        valid = {
            "method": self.methods,
            "model": [name for name in MODELS if any(cell.model == name for cell in self.cells)],
            "bits": sorted({cell.bits for cell in self.cells if cell.bits}, key=bits_order),
            "task": list(TASKS),
        }
        for what, name in wanted.items():
            if name is not None and name not in valid[what]:
                raise VitqError(unknown(what, name, valid[what], key=what))
        given = {what: name for what, name in wanted.items() if name is not None}
        cells = tuple(cell for cell in self.cells if all(getattr(cell, what) == name for what, name in given.items()))
        return Figures(self.sources, cells)

    def spreads(self) -> list[Spread]:
        """Baselines with several rows, at each model and bit-width; times are not compared."""
        return spreads(cell for cell in self.cells if cell.metric != "minutes")

    def widest(self, count: int = 10) -> list[Spread]:
        """The baselines with the widest spread of top-1, widest first: each method (and variant) once for a bit-width,
        at the model where its rows lie farthest apart."""
        widest: dict[tuple[object, ...], Spread] = {}
        for spread in sorted(self.spreads(), key=lambda spread: -spread.width):
            cell = spread.cells[0]
            if cell.metric == "top1":
                widest.setdefault((cell.baseline, cell.bits), spread)
        return list(widest.values())[:count]


def _order(cell: Cell) -> tuple[object, ...]:
    metric = ("top1", "ap_box", "ap_mask", "minutes").index(cell.metric)
    return metric, bits_order(cell.bits), cell.baseline, cell.source, cell.label, MODELS.index(cell.model)


def _cells(name: str, sources: Mapping[str, SourceFile]) -> Iterator[Cell]:
    for table in sources[name].tables:
        for row in table.rows:
            for column in range(len(table.models)):
                yield from _cells_of(name, table, row, column, sources)


def _cells_of(name: str, table: Table, row: str, column: int, sources: Mapping[str, SourceFile]) -> Iterator[Cell]:
    """The cells of one entry of a table: one for each of its metrics, none where it is empty."""
    model = table.models[column]
    method, _, variant = row.partition("/")
    task, runner = task_of(model), table.runner(row)
    facts = {} if runner is None else sources[runner].facts(row, task, model, table.bits)
    full = table.numbers(None if table.full_precision is None else table.full_precision[column])
    for k, (number, std) in enumerate(table.numbers(table.rows[row][column])):
        metric = table.metrics[k]
        yield Cell(
            source=name,
            table=table.table,
            tags=tuple(table.tags),
            method=method,
            variant=variant or None,
            task=task,
            model=model,
            bits=table.bits,
            metric=metric,
            value=number,
            std=std,
            decimals=table.decimals_of(metric),
            full_precision=full[k][0] if full else None,
            full_precision_source=table.full_precision_source if full else None,
            run_by=runner,
            note=table.note,
            facts=facts | table.protocol.facts(model, table.bits),
        )
