"""Hydra expands: a primary config and overrides become cells, each a fully resolved plain dict.

Nothing here knows what a key means. Plain overrides (`bits.kinds.probs=8`) may add keys that no YAML file lists;
whether a key exists is for `RunConfig.parse` to say, and that reports all of them at once.
"""

from __future__ import annotations

import copy
import itertools
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from vitq.config import RunConfig
from vitq.config.search_path import ConfigPath
from vitq.errors import ConfigError, Problem, unknown
from vitq.planning.base_method import with_base
from vitq.planning.compose_errors import HYDRA_ERRORS, explain
from vitq.planning.overrides import launcher_overrides, override_text, parse_axes, parse_value, without_effect

VERSION_BASE = "1.3"


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
    name = (config_name or "config").removesuffix(".yaml")
    for folder in search_path.folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml", search_path
    action = "--config-name names a file in --config-dir."
    raise ConfigError([unknown("primary config", name, search_path.files("."), action, key="--config-name")])


def load(file: Path, search_path: ConfigPath, overrides: Sequence[str] = (), multirun: bool = False) -> Primary:
    """Read a primary config: its mode, its `sweep` section, its axes with `overrides` on top.

    An override of an axis replaces it. Raises ConfigError when the file does not compose, when an override does not
    parse, and when something is swept in a config that is neither MULTIRUN nor started with `-m`.
    """
    overrides = launcher_overrides(overrides)
    own = [o for o in overrides if o.lstrip("+~").startswith(("sweep.", "hydra.", "hydra/"))]
    early = [f"++{o}" if o.startswith("sweep.") else o for o in own]
    with _hydra(file) as compose:
        try:
            config = compose(file.stem, [_search(file, search_path), *early], return_hydra_config=True)
            sweep = OmegaConf.to_container(OmegaConf.create(OmegaConf.select(config, "sweep") or {}), resolve=True)
            params = OmegaConf.select(config, "hydra.sweeper.params") or {}
            multirun = multirun or str(config.hydra.mode).endswith("MULTIRUN")
        except HYDRA_ERRORS as error:
            problem = explain(error, search_path)
            raise ConfigError([problem.reworded(f"{file}: {problem}")]) from error
    if not isinstance(sweep, dict) or not hasattr(params, "items"):
        raise ConfigError([Problem(f"{file}: `sweep` and `hydra.sweeper.params` must be mappings", "sweep", sweep)])
    given = [f"{key}={value}" for key, value in params.items()] if multirun else []
    axes = parse_axes([*given, *(o for o in overrides if o not in own)], search_path)
    settings: Any = OmegaConf.to_container(OmegaConf.select(OmegaConf.load(file), "hydra") or OmegaConf.create())
    ignored = [f"{file}: {line}" for line in without_effect(settings)] if isinstance(settings, dict) else []
    primary = Primary(file, search_path, multirun, {str(k): v for k, v in sweep.items()}, axes, tuple(ignored))
    if primary.swept and not multirun:
        why = "several values need a sweep; `vitq run -m` runs them all"
        raise ConfigError(Problem(f"{k}={','.join(v)}: {why}", k, v) for k, v in primary.swept.items())
    return primary


def single_config(config_dir: str | None, overrides: Sequence[str]) -> RunConfig:
    """The config of one run with overrides, parsed but not planned. Raises ConfigError."""
    (cell,) = expand(load(*root_config(config_dir), overrides))
    config, problems = RunConfig.parse(cell.raw) if cell.problem is None else (None, [cell.problem])
    if config is None:
        raise ConfigError(problems)
    return config


def expand(primary: Primary) -> Iterator[ConfigCell]:
    """The product of the axes, first axis outermost, each cell resolved to a plain dict.

    A cell that does not compose is yielded with its problem, so that a caller can list all of them. Hydra composes once
    per choice of groups; plain values are then set on a copy, by the call that Hydra itself uses for `++key=value`.
    """
    composed: dict[tuple[str, ...], tuple[DictConfig, dict[str, str], dict[str, Any] | None]] = {}
    search = _search(primary.file, primary.search_path)
    with _hydra(primary.file) as compose:
        for values in itertools.product(*primary.axes.values()):
            overrides = [override_text(key, value) for key, value in zip(primary.axes, values, strict=True)]
            shown = tuple(o.removeprefix("++") for o in overrides)
            late = [o for o in overrides if o.startswith("++")]
            if any(o.startswith(("+", "~")) and o not in late for o in overrides):
                late = []  # `+` and `~` depend on what stands before them: Hydra applies all of them in order
            early = tuple(o for o in overrides if o not in late)
            try:
                if early not in composed:
                    config, choices = _compose(compose, primary.file.stem, [search, *early])
                    composed[early] = config, choices, _independent(config)
                config, choices, plain = composed[early]
                raw: Any = _set(plain, late) if plain is not None else None
                if raw is None:
                    config = copy.deepcopy(config)
                    for override in late:
                        key, value = parse_value(override)
                        OmegaConf.update(config, key, value, merge=True, force_add=True)
                    raw = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            except HYDRA_ERRORS as error:
                yield ConfigCell(shown, {}, {}, explain(error, primary.search_path))
                continue
            try:
                full = with_base({str(k): v for k, v in dict(raw).items() if k != "sweep"}, primary.search_path)
            except ConfigError as error:
                yield ConfigCell(shown, choices, {}, error.problems[0])  # it names one
                continue
            yield ConfigCell(shown, choices, full)


def _compose(compose: Any, name: str, overrides: list[str]) -> tuple[Any, dict[str, str]]:
    config = compose(name, overrides, return_hydra_config=True)
    choices = {str(k): str(v) for k, v in config.hydra.runtime.choices.items() if not k.startswith("hydra/")}
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    return config, choices


def _independent(config: Any) -> dict[str, Any] | None:
    """The resolved config as plain values when no value of it depends on another or is missing, else None.

    Plain values then can be set on a plain copy, which is ten times faster than on OmegaConf's own.
    """
    raw = OmegaConf.to_container(config, resolve=False)
    if any(isinstance(leaf, str) and ("${" in leaf.replace("${oc.env:", "") or leaf == "???") for leaf in _leaves(raw)):
        return None
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return plain


def _leaves(node: Any) -> Iterator[Any]:
    if not isinstance(node, dict | list):
        yield node
        return
    for child in node.values() if isinstance(node, dict) else node:
        yield from _leaves(child)


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


@contextmanager
def _hydra(file: Path) -> Iterator[Any]:
    """Hydra's `compose` with a file's folder as primary config folder; Hydra's global state is put back afterwards."""
    with warnings.catch_warnings():
        # Hydra 1.4 warns that the argument goes away in 1.5; 1.3 needs it.
        warnings.filterwarnings("ignore", message="The version_base parameter is deprecated")
        session = hydra.initialize_config_dir(config_dir=str(file.parent), job_name="vitq", version_base=VERSION_BASE)
    with session:
        yield hydra.compose


def _search(file: Path, search_path: ConfigPath) -> str:
    """Override that lets a primary config outside `conf/` find the groups; the file's own searchpath stays in front."""
    own = OmegaConf.select(OmegaConf.load(file), "hydra.searchpath", default=None) or []
    paths = [*own, *(f"file://{folder}" for folder in search_path.folders if folder != file.parent)]
    return "hydra.searchpath=[" + ",".join("'" + path.replace("'", "\\'") + "'" for path in paths) + "]"
