"""Overrides of the command line, parsed by Hydra's grammar; Hydra's launcher names turned into vitq's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException

from vitq.config.search_path import ConfigPath
from vitq.errors import ConfigError, Problem, first_line, unknown
from vitq.planning.quoting import as_meant

# Names in Hydra's launcher group → vitq's launchers. `basic` is Hydra's own: this process.
LAUNCHERS = {"vitq_local": "local", "vitq_slurm": "slurm", "basic": "inline"}

# Settings of Hydra's own that count. Where results lie, how jobs log and what hooks they call is vitq's.
_READ = ("hydra.launcher.", "hydra.mode", "hydra.searchpath", "hydra.sweeper.params")
_INSTEAD = "results go to runs_dir=DIR, each run has a log.txt there, and launcher=… says how runs are started"


def without_effect(settings: Mapping[str, Any]) -> list[str]:
    """A line for each setting of a file's `hydra:` section that has no effect."""
    keys = [f"hydra.{key}" for key in settings if key != "sweeper"]
    sweeper = settings.get("sweeper")
    keys += [f"hydra.sweeper.{key}" for key in sweeper if key != "_target_"] if isinstance(sweeper, Mapping) else []
    return [f"{key}: vitq ignores it; {_INSTEAD}" for key in keys if not f"{key}.".startswith(_READ)]


def launcher_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides with Hydra's launcher group turned into `launcher=` and `launcher.options.`.

    Raises ConfigError for a launcher and for settings that would be ignored: vitq launches its runs itself.
    """
    translated = []
    for override in overrides:
        key, equals, value = override.partition("=")
        plain = key.lstrip("+")
        if plain == "hydra/launcher":
            if value not in LAUNCHERS:
                action = "vitq launches its runs itself."
                raise ConfigError([unknown("hydra/launcher", value, LAUNCHERS, action, key="hydra/launcher")])
            translated.append(f"launcher={LAUNCHERS[value]}")
        elif plain.lstrip("~").startswith(("hydra.", "hydra/")) and not plain.startswith(_READ):
            raise ConfigError([Problem(f"{override}: vitq ignores it; {_INSTEAD}", plain, value)])
        elif plain.startswith("hydra.sweeper.params."):
            translated.append(_axis(override))
        elif plain.startswith("hydra.launcher."):
            translated.append(f"++launcher.options.{plain.removeprefix('hydra.launcher.')}{equals}{value}")
        else:
            translated.append(override)
    return translated


def _axis(override: str) -> str:
    """`hydra.sweeper.params.seed="1,2"` as the axis that it is: `seed=1,2`."""
    try:
        key, value = parse_value(override.lstrip("+"))
    except HydraException:
        return override  # it is refused with all others that do not parse
    return f"{key.removeprefix('hydra.sweeper.params.')}={value}"


@cache
def parse_value(override: str) -> tuple[str, Any]:
    """(key, value) of one override, by Hydra's grammar. Raises HydraException."""
    parsed = OverridesParser.create().parse_override(override)
    return parsed.key_or_group, parsed.value()


def parse_axes(
    overrides: Sequence[str], search_path: ConfigPath, origins: Mapping[str, str] | None = None
) -> dict[str, list[str]]:
    """Parse overrides by Hydra's grammar into key → values, each as text that the grammar reads back.

    A plain value override gets Hydra's `++` (add or change): a YAML file need not list every key that may be set.
    origins: override → file and line of those that a sweep file has.
    """
    parser = OverridesParser.create(config_loader=search_path)  # type: ignore[arg-type]  # only get_group_options is called
    axes: dict[str, list[str]] = {}
    problems = []
    for text in overrides:
        said = f"{(origins or {}).get(text) or 'override'} {text!r}"
        try:
            override: Override = parser.parse_overrides([text])[0]
            key = override.get_key_element()
            is_value = "." in key or not search_path.is_group(key) or isinstance(override.value(), dict)
            if is_value and override.type == OverrideType.CHANGE and override.package is None:
                key = f"++{key}"
            if override.is_delete() and override.value_type is None:
                values = [""]
            elif override.is_interval_sweep():
                why = "an interval has no end of values; list them: key=1,2 or 'key=range(start,stop,step)'"
                problems.append(Problem(f"{said}: {why}", key.lstrip("+"), text.partition("=")[2]))
                continue
            elif override.is_sweep_override():
                values = list(override.sweep_string_iterator())
            else:
                values = [override.get_value_element_as_str()]
        except HydraException as error:
            problems.append(_unreadable(error, text, said))
            continue
        if not key:
            problems.append(Problem(f"{said}: names no key; write key=value", value=text))
        elif not is_value and not override.is_delete():
            problems += _not_names(key, said, override, search_path)
            values = [_as_name(value, key, text, search_path) for value in values]
        if not values and is_value:
            why = "it has no value; a range is 'range(start,stop,step)', and ends before stop"
            problems.append(Problem(f"{said}: {why}", key.lstrip("+"), text.partition("=")[2]))
        elif not values:
            problems.append(unknown(f"{key} matching", text.partition("=")[2], search_path.files(key), key=key))
        axes[key] = values
    if problems:
        raise ConfigError(problems)
    return axes


def _unreadable(error: HydraException, text: str, said: str) -> Problem:
    """Why the grammar does not read an override, and what was probably meant. said: where it is."""
    why, meant = first_line(error), as_meant(text)
    key, _, value = text.partition("=")
    if text[:1] in "–—" and text:
        meant = f"--{text.lstrip('–—-')}"
        why = f"it begins with a long dash, as word processors write it; meant is probably {meant}"
    elif re.fullmatch(r"[\w.+-]*(,[\w.+-]*)+", value) and "" in (listed := value.split(",")):
        meant = f"{key}={','.join(filter(None, listed))}"
        why = f"a value is missing beside a comma; without it: {meant}"
    else:
        why = "it has a sign that a value without quotes cannot have" if why.startswith("Lexer") else why
        why += "; write key=value" if meant is None else f"; written and quoted for a shell: {meant}"
    return Problem(f"{said}: {why}", value=text, where=said, action=meant or "")


def _as_name(value: str, key: str, text: str, search_path: ConfigPath) -> str:
    """An option that Hydra would read as a number or a boolean, in quotes where it names a file of the group: `bits=4`.

    text: the override, which has the number as it was written: `bits=1e3`.
    """
    group = key.lstrip("+").partition("@")[0]
    read = _read(value)
    if isinstance(read, str | list | dict | None):
        return value
    words = [value, *(word.strip() for word in text.partition("=")[2].split(","))]
    name = next((w for w in words if w in search_path.files(group) and _read(w) == read), None)
    return value if name is None else f"'{name}'"


def _read(word: str) -> Any:
    """What Hydra takes a word for; a text that it does not read is itself."""
    try:
        return parse_value(f"key={word}")[1]
    except HydraException:
        return word


def _not_names(key: str, said: str, override: Any, search_path: ConfigPath) -> Iterator[Problem]:
    """What stands where the name of a group's file belongs: a number, nothing, a list to lay over each other."""
    group = key.lstrip("+")
    for value in override.sweep_iterator() if override.is_sweep_override() else [override.value()]:
        if isinstance(value, list) and group != "probe":
            names = ",".join(str(v) for v in value)
            why = f"{group} takes one name; several values are an axis of a sweep: {group}={names}"
            yield Problem(f"{said}: {why}", group, [str(v) for v in value])
            continue
        # Probes are chosen together.
        for name in value if isinstance(value, list) else [value]:
            word = getattr(name, "text", name)
            files = search_path.files(group)
            known = [_read(file) for file in files] if not isinstance(value, list) else []
            if not isinstance(word, str) and not any(word == read and type(word) is type(read) for read in known):
                wrong = unknown(group, str(name), files, key=group)
                yield wrong.reworded(f"{said}: {wrong}")


def override_text(key: str, value: str) -> str:
    """One override as text, from a key and a value of `parse_axes`."""
    return key if key.startswith("~") and not value else f"{key}={value}"
