"""The wordings of config problems: one line for each key, and equal lines of many runs said once."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from vitq.errors import Problem, problem_of, under, unknown

T = TypeVar("T")

# Type → how one value of it is called, and several.
_WORDS = {
    float: ("a number", "numbers"),
    int: ("a whole number", "whole numbers"),
    str: ("a text", "texts"),
    bool: ("true or false", "of true and false"),
    types.NoneType: ("null", "nulls"),
}


# What pydantic says in words of Python.
_NEEDED = {
    "tuple_type": "a list is needed, [a,b]",
    "dict_type": "a mapping is needed, {a: b}",
    "dataclass_type": "a mapping is needed, {a: b}",
    "string_type": "a text is needed, in quotes where it looks like a number or like true",
}
# Runs that a line names.
_SHOWN = 3


def config_problems(error: ValidationError, kind: type) -> list[Problem]:
    """What is wrong with a whole config, one line for each key: `calib.sizee: unknown key …`, `seed=-1: …`.

    kind: the dataclass of the config, whose fields are the valid keys.
    """
    return [_config_problem(entry, kind) for entry in error.errors(include_url=False)]


def _config_problem(entry: Any, kind: type) -> Problem:
    path = [str(part) for part in entry["loc"] if not str(part).startswith(("constrained-", "literal[", "tuple["))]
    return _problem(entry, ".".join(path), _keys(kind, path[:-1]), "key")


def _problem(entry: Any, key: str, valid: list[str], what: str) -> Problem:
    """valid: the keys beside an unknown one, as far as they are known."""
    if entry["type"] == "unexpected_keyword_argument":
        name = entry["loc"][-1]
        return under(key, unknown(what, name, valid)) if valid else Problem(f"{key}: unknown {what}", key, name)
    return Problem(f"{key}: missing", key) if entry["type"] == "missing" else _invalid(key, entry)


def _invalid(key: str, entry: Any) -> Problem:
    """A value that pydantic, or a validator of ours, refuses; such a one may name what of it is wrong."""
    context, value = entry.get("ctx", {}), entry["input"]
    ours = problem_of(context["error"]) if "error" in context else Problem("")
    valid = re.findall(r"'([^']*)'", context["expected"]) if entry["type"] == "literal_error" else ours.valid
    if ours.key:
        key, value = f"{key}.{ours.key}" if key else ours.key, ours.value
    why = _NEEDED.get(entry["type"], entry["msg"].removeprefix("Value error, "))
    return Problem(f"{key}={value!r}: {why}", key, value, valid)


def parse_options(
    kind: type[T], raw: Mapping[str, Any], parent: str, what: str = "option"
) -> tuple[T | None, list[Problem]]:
    """Plain options → (a dataclass of this kind, []), or (None, problems), as `option_problems` has them.

    true and false stand for no number: Python counts them as 1 and 0.
    """
    adapter: TypeAdapter[T] = TypeAdapter(kind)
    try:
        parsed = adapter.validate_python(dict(raw))
    except ValidationError as error:
        return None, option_problems(error, parent, kind, what)
    wrong = switches_for_numbers(raw, adapter.dump_python(parsed, mode="json"), parent)
    return (None, wrong) if wrong else (parsed, [])


def switches_for_numbers(raw: Any, parsed: Any, parent: str = "") -> list[Problem]:
    """A line for each true or false, YAML's `yes` and `on` too, that pydantic took for a number.

    raw: before it was parsed. parsed: what came of it, plain again.
    """
    return [
        Problem(f"{key}={str(value).lower()}: a number is needed", key, value)
        for keys, value in leaves(raw)
        for key in [".".join(filter(None, (parent, *map(str, keys))))]
        if isinstance(value, bool) and not isinstance(_at(parsed, keys), bool)
    ]


def leaves(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Keys and value of everything that holds nothing else, options of steps and quantizers included."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(item, (*keys, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from leaves(item, (*keys, index))
    else:
        yield keys, value


def _at(plain: Any, keys: tuple[Any, ...]) -> Any:
    for key in keys:
        plain = plain[key if isinstance(plain, list) else str(key)]
    return plain


def option_problems(error: ValidationError, parent: str, kind: type, what: str = "option") -> list[Problem]:
    """What is wrong with the options under a dotted key, one line each: `PARENT.key=value: …`.

    kind: the dataclass that has them as fields.
    """
    try:
        hints = typing.get_type_hints(kind)
    except NameError:  # a class variable's type that is imported for type checkers alone
        hints = {}
    problems: dict[Problem, None] = {}
    for entry in sorted(error.errors(include_url=False), key=_depth):
        name = str(entry["loc"][0]) if entry["loc"] else ""
        forms = _forms(hints.get(name))
        if len(forms) > 1 and entry["type"] != "unexpected_keyword_argument":
            # pydantic says for each form why the value is not of it, with the form in the key. The shallowest says the
            # whole value, and the key as it was typed.
            start = f"{parent}.{name}"
            if not any(problem.key == start for problem in problems):
                value = f"={entry['input']!r}" if _depth(entry) == 2 else ""
                problems[Problem(f"{start}{value}: valid: {', or '.join(forms)}", start, entry["input"], forms)] = None
        else:
            key = ".".join([parent, *map(str, entry["loc"])])
            valid = [field.name for field in dataclasses.fields(kind)] if _depth(entry) == 1 else []
            problems[_problem(entry, key, valid, what)] = None
    return list(problems)


def _depth(entry: Any) -> int:
    return len(entry["loc"])


def _forms(hint: Any) -> list[str]:
    """The forms that a value may have, in words; one or none where the type is no union of several."""
    if not isinstance(hint, types.UnionType) and typing.get_origin(hint) is not typing.Union:
        return []
    kinds = typing.get_args(hint)
    # `X | None` is one form, which pydantic names plainly.
    return [_words(kind) for kind in kinds] if len([k for k in kinds if k is not types.NoneType]) > 1 else []


def _words(kind: Any) -> str:
    if kind in _WORDS:
        return _WORDS[kind][0]
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(map(str, inner))
    if typing.get_origin(kind) is tuple and len({*inner} - {...}) == 1 and inner[0] in _WORDS:
        count = "" if ... in inner else f"{len(inner)} "
        return f"a list of {count}{_WORDS[inner[0]][1]}"
    return str(kind)


def merge(problems: Iterable[tuple[str, Problem]], runs: int) -> list[Problem]:
    """(run, problem) pairs → one line per distinct problem, with the runs concerned where there are several.

    runs: number of runs looked at, so that `all` can be said. Problems of the sweep itself have no run: an empty name.
    """
    where: dict[Problem, list[str]] = {}
    for run, problem in problems:
        concerned = where.setdefault(problem, [])
        if run and run not in concerned:
            concerned.append(run)
    return [
        problem.reworded(f"{problem}  [{_runs(names, runs)}]") if names and runs > 1 else problem
        for problem, names in where.items()
    ]


def _runs(names: list[str], runs: int) -> str:
    if len(names) == runs:
        return f"all {runs} runs"
    shown = "; ".join(names[:_SHOWN])
    return f"{len(names)} of {runs} runs: {shown}{'; …' if len(names) > _SHOWN else ''}"


def _keys(kind: Any, path: list[str]) -> list[str]:
    """Fields of the dataclass under `path`, stepping through optional ones and dicts of dataclasses."""
    if not path:
        return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    if not dataclasses.is_dataclass(kind):
        return []
    hint = typing.get_type_hints(kind).get(path[0])
    remaining = path[1:]
    if typing.get_origin(hint) is dict:
        hint, remaining = typing.get_args(hint)[1], remaining[1:]
    elif isinstance(hint, types.UnionType):
        hint = next((arg for arg in typing.get_args(hint) if dataclasses.is_dataclass(arg)), None)
    return _keys(hint, remaining)
