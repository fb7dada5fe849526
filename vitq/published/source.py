"""A source: one paper, repository or note, with its protocols and tables, as its YAML file has them."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.errors import Problem
from vitq.published.cell import BITS, METRICS, MODELS
from vitq.published.protocol import Protocol

Tag = Literal["P", "S", "C", "T", "A", "3", "I"]
Tags = Annotated[list[Tag], Field(min_length=1)]
Metric = Literal["top1", "ap_box/ap_mask", "minutes"]
# A number, or a text of one number for each metric with `±` before a standard deviation: `37.5/36.6`, `67.34±.12`.
Value = float | str | None
NUMBER = r"\d*\.?\d+"


@dataclass(frozen=True, config=RULES)
class Publication:
    """Where the figures come from. `about`: what was read of it, in a sentence."""

    name: str
    about: str
    year: int | None = None
    arxiv: str | None = None
    doi: str | None = None
    venue: str | None = None
    repository: str | None = None
    commit: str | None = None
    licence: str | None = None


@dataclass(frozen=True, config=RULES)
class Statement:
    """A statement that is no cell of a table."""

    method: str
    text: str
    tags: Tags


@dataclass(frozen=True, config=RULES)
class Table:
    """Rows (methods) × columns (models) of one bit-width and metric.

    rows: `method` or `method/variant` → one value for each model, None where the source has none.
    run_by: id of the source whose authors obtained the numbers, for all rows or by row; absent: not stated.
    full_precision_source: see `Cell`. protocol: facts of this table alone; they replace those of `run_by`.
    decimals: as printed (default: by metric, top-1 2, AP 1).
    """

    metric: Metric
    tags: Tags
    models: Annotated[list[str], Field(min_length=1)]
    rows: Annotated[dict[str, list[Value]], Field(min_length=1)]
    bits: Annotated[str, Field(pattern=f"^({BITS})$")] | None = None
    table: str | None = None
    run_by: str | dict[str, str] | None = None
    full_precision: list[Value] | None = None
    full_precision_source: Literal["table", "union"] = "table"
    protocol: Protocol = field(default_factory=Protocol)
    note: str | None = None
    decimals: Annotated[int, Field(ge=0, le=3)] | None = None

    @field_validator("models")
    @classmethod
    def _known(cls, models: list[str]) -> list[str]:
        if wrong := [model for model in models if model not in MODELS]:
            raise ValueError(Problem(f"unknown model {', '.join(wrong)}; valid: {', '.join(MODELS)}", valid=MODELS))
        if len(set(models)) < len(models):
            raise ValueError("a model is there twice")
        return models

    @model_validator(mode="after")
    def _shape(self) -> Table:
        lists = {f"rows.{name}": values for name, values in self.rows.items()}
        if self.full_precision is not None:
            lists["full_precision"] = self.full_precision
        for key, values in lists.items():
            if len(values) != len(self.models):
                raise ValueError(Problem(f"{len(values)} values for {len(self.models)} models", key, values))
            for value in values:
                try:
                    self.numbers(value)
                except ValueError as error:
                    raise ValueError(Problem(str(error), key, value)) from error
        stray = [row for row in (self.run_by if isinstance(self.run_by, dict) else ()) if row not in self.rows]
        if stray:
            raise ValueError(Problem(f"no such row; rows: {', '.join(self.rows)}", "run_by", stray, self.rows))
        return self

    @property
    def metrics(self) -> list[str]:
        """`ap_box/ap_mask` → both."""
        return self.metric.split("/")

    def decimals_of(self, metric: str) -> int:
        """Decimals that are printed."""
        return METRICS[metric][1] if self.decimals is None else self.decimals

    def runner(self, row: str) -> str | None:
        """Id of the source whose authors obtained a row; None: not stated."""
        return self.run_by.get(row) if isinstance(self.run_by, dict) else self.run_by

    def numbers(self, value: Value) -> list[tuple[float, float | None]]:
        """(value, standard deviation) for each metric; empty for None. Raises ValueError for what is no figure."""
        if value is None:
            return []
        parts = str(value).split("/")
        if len(parts) != len(self.metrics):
            raise ValueError(f"{len(parts)} numbers for {self.metric}")
        numbers = []
        for metric, part in zip(self.metrics, parts, strict=True):
            match = re.fullmatch(rf"({NUMBER})(?:±({NUMBER}))?", part)
            if match is None:
                raise ValueError("no figure; valid: 67.34, 67.34±.12, and 37.5/36.6 for two metrics")
            number = float(match[1])
            if metric != "minutes" and number > 100:
                raise ValueError("no percentage")
            if round(number, self.decimals_of(metric)) != number:
                raise ValueError(f"more than {self.decimals_of(metric)} decimals; `decimals` says how many")
            numbers.append((number, None if match[2] is None else float(match[2])))
        return numbers


@dataclass(frozen=True, config=RULES)
class SourceFile:
    """A file of figures. protocols: task → method (or `method/variant`, or `all` rows that its authors ran) → facts."""

    source: Publication
    protocols: dict[Literal["classification", "detection"], dict[str, Protocol]] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    claims: list[Statement] = field(default_factory=list)

    def facts(self, row: str, task: str, model: str, bits: str | None) -> dict[str, int | float | str]:
        """What the source says about the protocol of a row that its authors ran; the narrower statement wins."""
        protocols = {str(name): by_row for name, by_row in self.protocols.items()}.get(task, {})
        known: dict[str, int | float | str] = {}
        for key in ("all", row.split("/")[0], row):
            if key in protocols:
                known |= protocols[key].facts(model, bits)
        return known
