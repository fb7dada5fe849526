"""Errors of options that a dataclass describes (of a step, a probe, a launcher, a sweep): one line for each option."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import TYPE_CHECKING, Any

from vitq.errors import unknown

if TYPE_CHECKING:
    from pydantic import ValidationError

# Type → how one value of it is called, and several.
_WORDS = {
    float: ("a number", "numbers"),
    int: ("a whole number", "whole numbers"),
    str: ("a text", "texts"),
    bool: ("true or false", "of true and false"),
    types.NoneType: ("null", "nulls"),
}


def option_problems(error: ValidationError, place: str, kind: type, what: str = "option") -> list[str]:
    """What is wrong with the options under a dotted key, one line each: `place.key=value: …`.

    kind: the dataclass that has them as fields.
    """
    try:
        hints = typing.get_type_hints(kind)
    except NameError:  # a class variable's type that is imported for type checkers alone
        hints = {}
    found: dict[str, None] = {}
    for entry in sorted(error.errors(include_url=False), key=_depth):
        key = ".".join([place, *map(str, entry["loc"])])
        name = str(entry["loc"][0]) if entry["loc"] else ""
        forms = _forms(hints.get(name))
        if entry["type"] == "unexpected_keyword_argument":
            valid = [field.name for field in dataclasses.fields(kind)] if _depth(entry) == 1 else []
            found[f"{key}: {unknown(what, entry['loc'][-1], valid) if valid else f'unknown {what}'}"] = None
        elif len(forms) > 1:
            # pydantic says for each form why the value is not of it, with the form in the key. The shallowest says the
            # whole value, and the key as it was typed.
            start = f"{place}.{name}"
            if not any(line.startswith((f"{start}=", f"{start}: ")) for line in found):
                value = f"={entry['input']!r}" if _depth(entry) == 2 else ""
                found[f"{start}{value}: valid: {', or '.join(forms)}"] = None
        else:
            value = "" if entry["type"] == "missing" else f"={entry['input']!r}"
            found[f"{key}{value}: {entry['msg'].removeprefix('Value error, ')}"] = None
    return list(found)


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
