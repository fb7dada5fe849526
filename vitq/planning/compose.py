"""Hydra expands: a primary config and overrides become cells, each a fully resolved plain dict.

Nothing here knows what a key means. Plain overrides (`bits.kinds.probs=8`) may add keys that no YAML file lists;
whether a key exists is for `RunConfig.parse` to say, and that reports all of them at once.
"""

from __future__ import annotations

import copy
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vitq.config import RunConfig
from vitq.config.search_path import ConfigPath
from vitq.errors import ConfigError, Problem, unknown
from vitq.models.pretrained import resized, with_preprocessing, without_head
from vitq.planning.base_method import with_base
from vitq.planning.compose_errors import DEFAULTS, HYDRA_ERRORS, explain, has_defaults
from vitq.planning.composer import Composer
from vitq.planning.misread import Misread, word_for_switch
from vitq.planning.origin import as_written, launcher_as_written, origin
from vitq.planning.overrides import launcher_overrides, override_text, parse_axes, parse_value, without_effect
from vitq.planning.quoting import listed, quoted
from vitq.planning.session import hydra_session

# Where a sweep file has its axes.
_PARAMS = "hydra.sweeper.params"


@dataclass(frozen=True)
class ConfigCell:
    """One point of the product: the overrides that make it and the config that they resolve to.

    overrides: as a user would write them. choices: option of every group. raw: the resolved config without Hydra's own
    node, empty where `problem` says why it does not compose.
    """

    overrides: tuple[str, ...]
    choices: dict[str, str]
    raw: dict[str, Any]
    problem: Problem | None = None


@dataclass(frozen=True)
class Primary:
    """A primary config before its product is taken.

    axes: override key → values as text; those of the file in its order, then those of the command line. warnings: what
    the file says and nothing reads.
    """

    file: Path
    search_path: ConfigPath
    multirun: bool
    sweep: dict[str, Any]
    axes: dict[str, list[str]]
    warnings: tuple[str, ...] = ()

    @property
    def swept(self) -> dict[str, list[str]]:
        """The axes with more than one value, keys as a user writes them."""
        return {key.lstrip("+"): values for key, values in self.axes.items() if len(values) > 1}


def root_config(
    config_dir: str | os.PathLike[str] | None = None, config_name: str | None = None
) -> tuple[Path, ConfigPath]:
    """Primary file and search folders for Hydra's `--config-dir` and `--config-name`. Raises ConfigError."""
    search_path = ConfigPath.of(config_dir)
    name = (config_name or "config").removesuffix(".yaml").removesuffix(".yml")
    file = search_path.file("", name)
    if file is None:
        action = "--config-name names a file in --config-dir."
        raise ConfigError([unknown("primary config", name, search_path.files("."), action, key="--config-name")])
    return file, search_path


def load(file: Path, search_path: ConfigPath, overrides: Sequence[str] = (), multirun: bool = False) -> Primary:
    """Read a primary config: its mode, its `sweep` section, its axes with `overrides` on top.

    An override of an axis replaces it. Raises ConfigError when the file does not compose, when an override does not
    parse, and when something is swept in a config that is neither MULTIRUN nor started with `-m`.
    """
    overrides = launcher_overrides(overrides)
    own = [o for o in overrides if o.lstrip("+~").startswith(("sweep.", "hydra.", "hydra/"))]
    early = [f"++{o}" if o.startswith("sweep.") else o for o in own]
    try:
        with hydra_session(file, search_path) as session:
            gone = [f"{file}: hydra.searchpath names {path}, which does not exist" for path in session.gone]
            config = session.compose(early)
            sweep = OmegaConf.to_container(OmegaConf.create(OmegaConf.select(config, "sweep") or {}), resolve=True)
            params = OmegaConf.select(config, "hydra.sweeper.params") or {}
            multirun = multirun or str(config.hydra.mode).endswith("MULTIRUN")
            listed = params.items() if multirun and hasattr(params, "items") else ()
            given = [f"{key}={as_written(value, [(file, f'{_PARAMS}.{key}')])}" for key, value in listed]
    except HYDRA_ERRORS as error:
        raise ConfigError([explain(error, file, search_path, overrides)]) from error
    if "model" not in config and own == overrides and not has_defaults(file):
        text = f"{file}: it has no defaults, and no model; a sweep begins with `{DEFAULTS}`"
        raise ConfigError([Problem(text, "defaults", where=str(file), action=DEFAULTS)])
    if not isinstance(sweep, dict) or not hasattr(params, "items"):
        raise ConfigError([Problem(f"{file}: `sweep` and `hydra.sweeper.params` must be mappings", "sweep", sweep)])
    lines = {text: origin(f"{_PARAMS}.{text.partition('=')[0]}", file, search_path, {})[0] for text in given}
    axes = parse_axes([*given, *(o for o in overrides if o not in own)], search_path, lines)
    settings: Any = OmegaConf.to_container(OmegaConf.select(OmegaConf.load(file), "hydra") or OmegaConf.create())
    ignored = [f"{file}: {line}" for line in without_effect(settings)] if isinstance(settings, dict) else []
    warnings = (*search_path.notes, *gone, *ignored)
    primary = Primary(file, search_path, multirun, {str(k): v for k, v in sweep.items()}, axes, warnings)
    named = [o for o in own if o.lstrip("+~").startswith("sweep.")]
    if named and not multirun:
        why = "a single run has no sweep; `vitq run -m` starts one"
        raise ConfigError(Problem(f"{o}: {why}", o.lstrip("+~").partition("=")[0]) for o in named)
    if primary.swept and not multirun:
        raise ConfigError(_several(key, values) for key, values in primary.swept.items())
    return primary


def _several(key: str, values: list[str]) -> Problem:
    text = ",".join(values)
    why = "several values need a sweep; `vitq run -m` runs them all. "
    one = listed(key, values)
    why += "One value with a comma is quoted" if one is None else "One value, a list"
    one = one or quoted(key, text)
    return Problem(f"{key}={text}: {why}: {one}", key, values, action=one)


def single_config(config_dir: str | None, overrides: Sequence[str]) -> RunConfig:
    """The config of one run with overrides, parsed but not planned. Raises ConfigError."""
    (cell,) = expand(load(*root_config(config_dir), overrides))
    config, problems = RunConfig.parse(cell.raw) if cell.problem is None else (None, [cell.problem])
    if config is None:
        raise ConfigError(problems)
    return config


def expand(primary: Primary) -> Iterator[ConfigCell]:
    """The product of the axes, first axis outermost, each cell resolved to a plain dict.

    A cell that does not compose is yielded with its problem, so that a caller can list all of them. Options of groups
    are composed (`Composer`), plain values then set on a copy, by the call that Hydra itself uses for `++key=value`.
    """
    launchers: dict[str, Any] = {}
    overridden = {key.lstrip("+") for key in primary.axes}
    misread = Misread(primary.file, primary.search_path)
    with hydra_session(primary.file, primary.search_path) as session:
        composer = Composer(session)
        for values in itertools.product(*primary.axes.values()):
            overrides = [override_text(key, value) for key, value in zip(primary.axes, values, strict=True)]
            shown = tuple(o.removeprefix("++") for o in overrides)
            late = [o for o in overrides if o.startswith("++")]
            if any(o.startswith(("+", "~")) and o not in late for o in overrides):
                late = []  # `+` and `~` depend on what stands before them: Hydra applies all of them in order
            early = tuple(o for o in overrides if o not in late)
            choices: dict[str, str] = {}
            try:
                composed = composer.compose(early)
                choices = composed.choices
                raw: Any = _set(composed.plain, late) if composed.plain is not None else None
                if raw is None:
                    config = copy.deepcopy(composed.whole())
                    for override in late:
                        key, value = parse_value(override)
                        OmegaConf.update(config, key, value, merge=True, force_add=True)
                    raw = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            except HYDRA_ERRORS as error:
                problem = explain(error, primary.file, primary.search_path, shown, choices)
                yield ConfigCell(shown, {}, {}, problem)
                continue
            words = (word_for_switch(key.lstrip("+"), value) for key, value in zip(primary.axes, values, strict=True))
            base = raw["method"].get("base") if isinstance(raw.get("method"), dict) else None
            wrong = next(filter(None, words), None) or misread.problem(choices, base, overridden)
            if wrong is not None:
                yield ConfigCell(shown, choices, {}, wrong)
                continue
            read = f"{raw.get('launcher')} {choices}"
            if read not in launchers:
                launchers[read] = launcher_as_written(
                    raw.get("launcher"), primary.file, primary.search_path, choices, overridden
                )
            raw = {str(k): v for k, v in dict(raw).items() if k != "sweep"}
            if "launcher" in raw:
                raw["launcher"] = launchers[read]
            try:
                full = with_base(raw, primary.search_path)
            except ConfigError as error:
                yield ConfigCell(shown, choices, {}, error.problems[0])  # it names one
                continue
            full = resized(without_head(full), {key.lstrip("+") for key in primary.axes})
            yield ConfigCell(shown, choices, with_preprocessing(full))


def configs(primary: Primary) -> Iterator[RunConfig]:
    """The config of every cell. Raises ConfigError for the first cell that has a problem."""
    for cell in expand(primary):
        config, problems = RunConfig.parse(cell.raw) if cell.problem is None else (None, [cell.problem])
        if config is None:
            raise ConfigError(problems)
        yield config


def _set(plain: dict[str, Any], overrides: list[str]) -> dict[str, Any] | None:
    """A copy of plain values with some set; None where only OmegaConf knows what an override means."""
    out = copy.deepcopy(plain)
    for override in overrides:
        key, value = parse_value(override)
        if not re.fullmatch(r"[\w/-]+(\.[\w/-]+)*", key) or not isinstance(value, str | int | float | None):
            return None
        if isinstance(value, str) and ("${" in value or value == "???"):
            return None
        *parents, leaf = key.split(".")
        node: Any = out
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or isinstance(node.get(leaf), dict | list):
            return None
        if not all(isinstance(name, str) for name in node):
            return None
        node[leaf] = value
    return out
