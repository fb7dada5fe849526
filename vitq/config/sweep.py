"""What a sweep says about itself, beside its axes: name, cost, baseline, and the cells that it leaves out."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.config.problems import parse_options
from vitq.errors import Problem, under, unknown

# A name becomes a file, a folder and a W&B group. `.json` would make the folder of one sweep the file of another.
NAME = re.compile(r"(?!history$)(?!.*\.json$)[A-Za-z0-9_][A-Za-z0-9_.+=, -]{0,99}(?<![ .])")


def _name(value: str) -> str:
    # What the store takes, without the signs that a shell would want quoted.
    if not (re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value) and NAME.fullmatch(value)):
        raise ValueError(
            "a sweep's name becomes a file name; valid: up to 100 letters, digits, '.', '_' and '-', starting with a "
            "letter or digit, not ending in '.' or '.json', and not 'history'"
        )
    return value


@dataclass(frozen=True, config=RULES)
class CellProbes:
    """Probes of the cells that match. cells: keys and what they match. options: probe → its options."""

    cells: dict[str, Any]
    options: dict[str, dict[str, Any]]


@dataclass(frozen=True, config=RULES)
class SweepConfig:
    """The `sweep:` section of a primary config.

    name: under which the sweep is recorded; the file's own name where the section leaves it out.
    description, cost: for humans; cost names time, machine and number of runs.
    budget_seconds: how long the steps of each recipe may take; the plan chooses the iterations of those that learn.
    baseline: method that the others are compared with image by image.
    exclude: cells left out. Each entry maps keys to a value, a pattern (`swin_*`) or a list of these; a cell is left
        out when all keys of one entry match. A key is a group (`method`, `bits`) or a dotted key (`calib.size`).
    probes: probes of some cells alone. Each entry has `cells`, one of such maps, and `options` as `probe.options` has
        them: probe → its options. They are added to what `probe` says for all cells.
    """

    name: Annotated[str, AfterValidator(_name)]
    description: str = ""
    cost: str = ""
    budget_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    baseline: str | None = None
    exclude: tuple[dict[str, Any], ...] = ()
    probes: tuple[CellProbes, ...] = ()

    @staticmethod
    def parse(raw: Mapping[str, Any], name: str) -> tuple[SweepConfig | None, list[Problem]]:
        """Plain dict → (sweep, []) or (None, problems). `name` stands in where the section has none."""
        return parse_options(SweepConfig, {"name": name, **raw}, "sweep", "key")

    @property
    def chosen(self) -> list[tuple[str, Mapping[str, Any]]]:
        """What chooses cells: the key of the section that it stands under, and the entry."""
        probed: list[tuple[str, Mapping[str, Any]]] = [("probes", entry.cells) for entry in self.probes]
        return [("exclude", entry) for entry in self.exclude] + probed

    def unmatched(self, options: Callable[[str], Collection[str]]) -> list[Problem]:
        """A problem for each name or pattern of `exclude` and `probes` that no option of its group has.

        options: group → names of its options; empty for a key that is no group.
        """
        problems = []
        for section, key, want in ((s, key, want) for s, entry in self.chosen for key, want in entry.items()):
            valid = options(key)
            for name in want if isinstance(want, list | tuple) else [want]:
                if valid and not any(_matches(option, name) for option in valid):
                    problems.append(under(f"sweep.{section}", unknown(key, str(name), valid)))
        return problems


def matches(entry: Mapping[str, Any], choices: Mapping[str, str], config: Mapping[str, Any]) -> bool:
    """Whether a cell with these group choices and this resolved config is one that the entry means.

    Raises KeyError with the key when the entry names one that the config does not have.
    """
    # All values before any comparison: a misspelt key is reported even where another one does not match.
    values = {key: lookup(key, choices, config) for key in entry}
    return all(_matches(values[key], want) for key, want in entry.items())


def lookup(key: str, choices: Mapping[str, str], config: Mapping[str, Any]) -> Any:
    """Value of a group (its choice) or of a dotted key of a cell. Raises KeyError when there is none."""
    if key in choices:
        return choices[key]
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            raise KeyError(key)
        node = node[part]
    return node


def _matches(value: Any, want: Any) -> bool:
    if isinstance(want, list | tuple):
        return any(_matches(value, item) for item in want)
    return fnmatchcase(_text(value), _text(want))


def _text(value: Any) -> str:
    """YAML's own words: `true` and `null` in a sweep match True and None in a config."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return str(value)
