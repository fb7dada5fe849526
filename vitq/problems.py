"""Problem lines of many runs, made short: the valid keys added, equal lines said once with the runs they concern."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable
from typing import Any

from vitq.config import RunConfig
from vitq.errors import unknown

_SHOWN = 3


def with_valid_keys(problem: str) -> str:
    """`calib.sizee: unknown key` → the same with the keys that exist there; other lines pass unchanged."""
    place, colon, text = problem.partition(": ")
    if not colon or text != "unknown key":
        return problem
    parent, _, key = place.rpartition(".")
    keys = _keys(RunConfig, [part for part in parent.split(".") if part])
    return f"{place}: {unknown('key', key, keys)}" if keys else problem


def merge(problems: Iterable[tuple[str, str]], runs: int) -> list[str]:
    """(run, problem) pairs → one line per distinct problem, with the runs concerned where there are several.

    runs: number of runs looked at, so that `all` can be said. Problems of the sweep itself have no run: an empty name.
    """
    where: dict[str, list[str]] = {}
    for run, problem in problems:
        concerned = where.setdefault(problem, [])
        if run and run not in concerned:
            concerned.append(run)
    return [f"{problem}  [{_runs(names, runs)}]" if names and runs > 1 else problem for problem, names in where.items()]


def _runs(names: list[str], runs: int) -> str:
    if len(names) == runs:
        return f"all {runs} runs"
    shown = "; ".join(names[:_SHOWN])
    return f"{len(names)} of {runs} runs: {shown}{'; …' if len(names) > _SHOWN else ''}"


def _keys(kind: Any, path: list[str]) -> list[str]:
    """Fields of the dataclass found under `path`, stepping through optional ones and dicts of dataclasses."""
    if not path:
        return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    if not dataclasses.is_dataclass(kind):
        return []
    hint = typing.get_type_hints(kind).get(path[0])
    rest = path[1:]
    if typing.get_origin(hint) is dict:
        hint, rest = typing.get_args(hint)[1], rest[1:]
    elif isinstance(hint, types.UnionType):
        hint = next((arg for arg in typing.get_args(hint) if dataclasses.is_dataclass(arg)), None)
    return _keys(hint, rest)
