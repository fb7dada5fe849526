"""What was probably meant by an override that Hydra's grammar does not read, quoted so that it does."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

# A key of a mapping in quotes, which the grammar does not know: {"blocks.*.weight": 8}.
_QUOTED_KEY = re.compile(r"""(["'])([^"',:{}]+)\1\s*:""")


def as_meant(text: str) -> str | None:
    """The override that was meant, as a shell takes it: `'data.root="/data/a,b"'`. None where nothing is close."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        return None
    return next((shlex.quote(candidate) for candidate in _candidates(key.strip(), value.strip())), None)


def quoted(key: str, value: str) -> str:
    """An override whose value is this text, as a shell takes it."""
    return shlex.quote(f"{key}={_in_quotes(value)}")


def _in_quotes(value: str) -> str:
    # Between quotes of Hydra's grammar, a backslash counts before a quote alone.
    return '"' + re.sub(r'(\\*)"', r'\1\1\\"', re.sub(r"(\\+)$", r"\1\1", value)) + '"'


def _candidates(key: str, value: str) -> Iterator[str]:
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
