"""What was probably meant by an override that Hydra's grammar does not read, quoted so that it does."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from vitq.config import RunConfig
from vitq.config.reference import entries

# A key of a mapping in quotes, which the grammar does not know: {"blocks.*.weight": 8}.
_QUOTED_KEY = re.compile(r"""(["'])([^"',:{}]+)\1\s*:""")


# Sections whose own keys have signs that a dotted key cannot have: `bits.sites.blocks.*.weight`.
_MAPPINGS = ("bits.sites", "bits.kinds", "model.kwargs")


def as_meant(text: str) -> str | None:
    """The override that was meant, as a shell takes it: `'data.root="/data/a,b"'`. None where nothing is close."""
    colon = re.fullmatch(r"(\w+(?:\.\w+)*) ?: ?([^:/\\=]+)", text)
    key, equals, value = colon.expand(r"\1=\2").partition("=") if colon else text.partition("=")
    if not equals or not key.strip():
        return None
    for section in _MAPPINGS:
        inside = key.strip().removeprefix(f"{section}.")
        if inside != key.strip() and _value(mapping := f"{section}={{{inside}: {value.strip()}}}") is not None:
            return shlex.quote(mapping)
    return next((shlex.quote(candidate) for candidate in _candidates(key.strip(), value.strip())), None)


def quoted(key: str, value: str) -> str:
    """An override whose value is this text, as a shell takes it."""
    return shlex.quote(f"{key}={_in_quotes(value)}")


def listed(key: str, values: Sequence[str]) -> str | None:
    """An override that gives a key these values as its one value, a list; None for a key that takes none."""
    kinds = {entry.key: entry.kind for entry in entries(RunConfig)}
    return shlex.quote(f"{key}=[{','.join(values)}]") if key == "probe" or "list of" in kinds.get(key, "") else None


def _in_quotes(value: str) -> str:
    # Between quotes of Hydra's grammar, a backslash counts before a quote alone.
    return '"' + re.sub(r'(\\*)"', r'\1\1\\"', re.sub(r"(\\+)$", r"\1\1", value)) + '"'


def _candidates(key: str, value: str) -> Iterator[str]:
    in_brackets = re.fullmatch(r"\((.*)\)", value)
    if in_brackets and listed(key, ()) and _value(several := f"{key}=[{in_brackets[1]}]") is not None:
        yield several
    if _value(plain := f"{key}={value}") is not None:
        yield plain
    bare = _QUOTED_KEY.sub(r"\2:", value)
    if bare != value and _value(unquoted := f"{key}={bare}") is not None:
        yield unquoted
    if _value(whole := f"{key}={_in_quotes(value)}") == value:
        yield whole


def _value(text: str) -> object:
    """What an override sets; None where it does not parse, sets nothing or several values."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        return None
    value: object = None if override.is_sweep_override() else override.value()
    return getattr(value, "text", value)
