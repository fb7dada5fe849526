"""Errors of composition: which ones there are, and what each says on one line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from vitq.config.search_path import ConfigPath
from vitq.errors import Problem, unknown
from vitq.planning.origin import origin

# What Hydra, OmegaConf and their reader of YAML raise while they compose. The last four come from Hydra itself, for
# a file that it does not expect: `defaults: 3`, a file in Latin-1.
HYDRA_ERRORS = (
    HydraException, OmegaConfBaseException, YAMLError, AssertionError, AttributeError, TypeError, ValueError
)  # fmt: skip

# How a primary config begins.
DEFAULTS = "defaults: [config, _self_]"

# Lines of a message that say nothing to whoever wrote the config.
_TECHNICAL = re.compile(
    r"(full_key|reference_type|object_type|Search path|Config search path)\b|provider=|In '.*composing"
)
# What vitq says itself, with valid values.
_NO_DEFAULT = re.compile(r"Could not override '([\w/]+)'.*No match in the defaults list", re.DOTALL)


def explain(
    error: Exception,
    primary: Path,
    search_path: ConfigPath,
    overrides: Sequence[str] = (),
    choices: Mapping[str, str] | None = None,
) -> Problem:
    """One line for a composition error: the override, or the file and line; why; the valid values where we can look.

    primary: the config that was composed. overrides: of the cell. choices: option of every group, as far as known.
    """
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"
        return Problem(f"{where}: not YAML: {what}", value=where, where=where)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = search_path.files(group) if group else {}
        if options:
            return unknown(group, option, options, key=group)
    if undefaulted := _NO_DEFAULT.match(str(error)):
        return _no_default(undefaulted[1], primary, search_path, overrides)
    key = _key(error)
    where, value = _written(key, primary, search_path, overrides, choices or {})
    if not where:
        where, value = _named(error, overrides)
    where = where or str(primary)
    if _is_missing(error):
        return Problem(f"{where}: {key}: missing; set it with {key}=VALUE", key, value, where=where)
    why, action = _reason(error)
    subject = "" if not key or key in why else f"{key}: "
    return Problem(f"{where}: {subject}{why}", key, value, where=where, action=action)


def _key(error: BaseException | None) -> str:
    """The key that an error is about: the first of it and its causes that names one."""
    while error is not None:
        said = re.search(r"full_key: (\S+)|[Ff]ield '([\w.]+)'", str(error))
        key = getattr(error, "full_key", None) or (said and (said[1] or said[2]))
        if key:
            return str(key)
        error = error.__cause__
    return ""


def _is_missing(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, MissingMandatoryValue):
        error = error.__cause__
    return error is not None


def _written(
    key: str, primary: Path, search_path: ConfigPath, overrides: Sequence[str], choices: Mapping[str, str]
) -> tuple[str, str | None]:
    """`override 'seed=x'`, `conf/calib/mine.yaml, line 3`, or '': what gave a key its value, and the value's text."""
    for override in reversed(overrides if key else ()):
        name = override.lstrip("+~").partition("=")[0]
        if (key == name or key.startswith(f"{name}.")) and ("." in name or not search_path.is_group(name)):
            return _override(override)
    chosen = {**dict(o.lstrip("+").split("=", 1) for o in overrides if "=" in o), **choices}
    return origin(key, primary, search_path, chosen) if key else ("", None)


def _named(error: BaseException, overrides: Sequence[str]) -> tuple[str, str | None]:
    """The override whose key is a word of a message, and its value."""
    words = set(re.findall(r"[\w@/.-]+", str(error)))
    return next((_override(o) for o in overrides if o.lstrip("+~").partition("=")[0] in words), ("", None))


def _override(text: str) -> tuple[str, str]:
    """An override as it was typed, and its value: the one that Hydra gives back has escapes."""
    plain = re.sub(r"\\(.)", r"\1", text)
    return f"override '{plain}'", plain.partition("=")[2]


def _reason(error: BaseException) -> tuple[str, str]:
    """What an error's message says, on one line, its class where it says nothing; and what to write instead, or ''."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = " ".join(line for line in lines if line and not _TECHNICAL.match(line))
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 ({error.reason}); save it as that", ""
    if "HydraConfig was not set" in said:
        action = "${oc.env:PWD}"
        why = "${hydra:…} tells of a job of Hydra's, and there is none"
        return f"{why}; {action} is the folder where vitq was started", action
    variable = re.match(r"Interpolation key '(\w+)' not found", said)
    if variable and variable[1] in os.environ:
        action = f"${{oc.env:{variable[1]}}}"
        return f"{said}; a variable of the environment is {action}", action
    cause, action = _reason(error.__cause__) if isinstance(error, HydraException) and error.__cause__ else ("", "")
    if cause and cause.rpartition(": ")[2] not in said:
        return f"{said} ({cause})".removeprefix(" "), action
    known = isinstance(error, HydraException | OmegaConfBaseException) and said
    return said if known else f"{type(error).__name__}: {said}", action


def _no_default(group: str, primary: Path, search_path: ConfigPath, overrides: Sequence[str]) -> Problem:
    """An option of a group that the defaults of a config do not choose."""
    word = next((o for o in overrides if o.partition("=")[0] == group), f"{group}=…")
    root = search_path.file("", "config")
    if search_path.is_group(group) and primary != root and not has_defaults(primary):
        why, action = f"{primary} has no defaults; let it begin with", DEFAULTS
    else:
        why, action = f"the defaults of {primary} choose no {group}; to add one write", f"+{word}"
    return Problem(f"{word}: {why} `{action}`", group, word.partition("=")[2], action=action)


def has_defaults(primary: Path) -> bool:
    """Whether a config has a list of defaults."""
    return any(line.startswith("defaults") for line in primary.read_text(encoding="utf-8").splitlines())
