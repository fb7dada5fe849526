"""Overrides of the command line, parsed by Hydra's grammar; Hydra's launcher names turned into vitq's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException

from vitq.config.search_path import ConfigPath
from vitq.errors import ConfigError, Problem, first_line, unknown

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
        elif plain.startswith("hydra.launcher."):
            translated.append(f"++launcher.options.{plain.removeprefix('hydra.launcher.')}{equals}{value}")
        else:
            translated.append(override)
    return translated


@cache
def parse_value(override: str) -> tuple[str, Any]:
    """(key, value) of one override, by Hydra's grammar. Raises HydraException."""
    parsed = OverridesParser.create().parse_override(override)
    return parsed.key_or_group, parsed.value()


def parse_axes(overrides: Sequence[str], search_path: ConfigPath) -> dict[str, list[str]]:
    """Parse overrides by Hydra's grammar into key → values, each as text that the grammar reads back.

    A plain value override gets Hydra's `++` (add or change): a YAML file need not list every key that may be set.
    """
    parser = OverridesParser.create(config_loader=search_path)  # type: ignore[arg-type]  # only get_group_options is called
    axes: dict[str, list[str]] = {}
    problems = []
    for text in overrides:
        try:
            override: Override = parser.parse_overrides([text])[0]
            key = override.get_key_element()
            is_value = "." in key or not search_path.is_group(key) or isinstance(override.value(), dict)
            if is_value and override.type == OverrideType.CHANGE and override.package is None:
                key = f"++{key}"
            if override.is_delete() and override.value_type is None:
                values = [""]
            elif override.is_sweep_override():
                values = list(override.sweep_string_iterator())
            else:
                values = [override.get_value_element_as_str()]
        except HydraException as error:
            problems.append(Problem(f"override {text!r}: {first_line(error)}", value=text))
            continue
        if not key:
            problems.append(Problem(f"override {text!r}: names no key; write key=value", value=text))
        elif not is_value and not override.is_delete():
            problems += _not_names(key, text, override, search_path)
        if not values:
            problems.append(unknown(f"{key} matching", text.partition("=")[2], search_path.files(key), key=key))
        axes[key] = values
    if problems:
        raise ConfigError(problems)
    return axes


def _not_names(key: str, text: str, override: Any, search_path: ConfigPath) -> Iterator[Problem]:
    """What stands where the name of a group's file belongs: a number, nothing, a list to lay over each other."""
    group = key.lstrip("+")
    for value in override.sweep_iterator() if override.is_sweep_override() else [override.value()]:
        if isinstance(value, list) and group != "probe":
            names = ",".join(str(v) for v in value)
            why = f"{group} takes one name; several values are an axis of a sweep: {group}={names}"
            yield Problem(f"override {text!r}: {why}", group, [str(v) for v in value])
            continue
        # Probes are chosen together.
        for name in value if isinstance(value, list) else [value]:
            if not isinstance(getattr(name, "text", name), str):
                wrong = unknown(group, str(name), search_path.files(group), key=group)
                yield wrong.reworded(f"override {text!r}: {wrong}")


def override_text(key: str, value: str) -> str:
    """One override as text, from a key and a value of `parse_axes`."""
    return key if key.startswith("~") and not value else f"{key}={value}"
