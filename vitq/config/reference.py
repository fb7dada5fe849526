"""What every key of a config means, read from the dataclasses and their docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from vitq.config.run import RunConfig
from vitq.config.signature import VOLATILE

_WORDS: dict[Any, str] = {
    int: "integer", float: "number", str: "text", bool: "true or false", types.NoneType: "null", Any: "anything"
}  # fmt: skip
_BOUNDS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}


@dataclass(frozen=True)
class Entry:
    """One key. key: dotted; kind: what it takes, in words; default: as YAML has it, None where it must be given;
    about: what it means; volatile: whether it is no part of a run's identity."""

    key: str
    kind: str
    default: str | None
    about: str
    volatile: bool


def keys() -> list[str]:
    """Every dotted key of a run's config."""
    return [entry.key for entry in entries(RunConfig)]


def entries(kind: type, prefix: str = "") -> list[Entry]:
    """The keys of a dataclass and of those in it, in their order. Sections that may hold any key are one entry."""
    return list(_entries(kind, prefix))


def _entries(kind: type, prefix: str) -> Iterator[Entry]:
    hints, about = typing.get_type_hints(kind, include_extras=True), _about(kind)
    for field in dataclasses.fields(kind):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        nested = next((p for p in _parts(hint) if isinstance(p, type) and dataclasses.is_dataclass(p)), None)
        is_section = dataclasses.is_dataclass(hint)
        if not is_section:
            volatile = any(key == name or key.startswith(f"{name}.") for name in VOLATILE)
            yield Entry(key, _kind(hint), _default(field), about.get(field.name, ""), volatile)
        if nested is not None:
            below = f"{key}.NAME." if typing.get_origin(hint) is dict else f"{key}."
            yield from _entries(nested, below)


def _parts(hint: Any) -> tuple[Any, ...]:
    """The types that a hint is made of: itself, those of a union, the values of a mapping."""
    if typing.get_origin(hint) is Annotated:
        return _parts(typing.get_args(hint)[0])
    if typing.get_origin(hint) is dict:
        return _parts(typing.get_args(hint)[1])
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _kind(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds = [f"{sign} {getattr(fact, name)}" for fact in _facts(inner[1:]) for sign, name in _bound(fact)]
        return " ".join([_kind(inner[0]), *bounds])
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        return " or ".join(map(_kind, inner))
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin is tuple:
        return f"list of {_kind(inner[0])}" if ... in inner else f"list of {len(inner)}: {_kind(inner[0])}"
    if origin in (dict, Mapping):
        return f"mapping of {_kind(inner[1])}"
    return "section" if dataclasses.is_dataclass(hint) else _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _facts(facts: tuple[Any, ...]) -> Iterator[Any]:
    for fact in facts:  # pydantic's Field holds several
        yield from getattr(fact, "metadata", (fact,))


def _bound(fact: Any) -> list[tuple[str, str]]:
    return [_BOUNDS[type(fact)]] if type(fact) in _BOUNDS else []


def _default(field: dataclasses.Field[Any]) -> str | None:
    value = field.default
    if value is dataclasses.MISSING:
        if field.default_factory is dataclasses.MISSING:
            return None
        value = field.default_factory()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        # The Python of whoever writes the page is no default.
        return f"[{', '.join('python' if item == sys.executable else str(item) for item in value)}]"
    return str(value)


def _about(kind: type) -> dict[str, str]:
    """Field → what the docstring says of it. There, `name: text` and `one, other: text` begin a line or a sentence."""
    names = {field.name for field in dataclasses.fields(kind)}
    text = re.sub(r"\s*\n\s*", " ", inspect.getdoc(kind) or "")
    heads = [m for m in re.finditer(r"(?:^|(?<=[.] ))(\w+(?:, \w+)*): ", text) if names.issuperset(m[1].split(", "))]
    ends = [*(head.start() for head in heads[1:]), len(text)]
    return {
        name: text[head.end() : end].strip()
        for head, end in zip(heads, ends, strict=True)
        for name in head[1].split(", ")
    }
