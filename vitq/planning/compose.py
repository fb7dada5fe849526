"""Hydra expands: a primary config and overrides become cells, each a fully resolved plain dict.

Nothing here knows what a key means. Plain overrides (`bits.kinds.probs=8`) may add keys that no YAML file lists;
whether a key exists is for `RunConfig.parse` to say, and that reports all of them at once.
"""

from __future__ import annotations

import copy
import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vitq.config.search_path import Roots
from vitq.errors import ConfigError, first_line, unknown
from vitq.planning.base_method import with_base
from vitq.planning.compose_errors import explain, hydra_errors
from vitq.planning.overrides import launcher_overrides, unheeded

VERSION_BASE = "1.3"


@dataclass(frozen=True)
class Cell:
    """One point of the product: the overrides that make it and the config that they resolve to.

    overrides: as a user would write them. choices: option of every group. raw: the resolved config without Hydra's own
    node, empty where `problem` says why it does not compose.
    """

    overrides: tuple[str, ...]
    choices: dict[str, str]
    raw: dict[str, Any]
    problem: str | None = None


@dataclass(frozen=True)
class Primary:
    """A primary config before its product is taken.

    axes: override key → values as text; those of the file in its order, then those of the command line. warnings: what
    the file says and nobody heeds.
    """

    file: Path
    roots: Roots
    multirun: bool
    sweep: dict[str, Any]
    axes: dict[str, list[str]]
    warnings: tuple[str, ...] = ()

    @property
    def swept(self) -> dict[str, list[str]]:
        """The axes with more than one value, keys as a user writes them."""
        return {key.lstrip("+"): values for key, values in self.axes.items() if len(values) > 1}


def root_config(config_dir: str | None = None, config_name: str | None = None) -> tuple[Path, Roots]:
    """Primary file and search folders for Hydra's `--config-dir` and `--config-name`. Raises ConfigError."""
    roots = Roots.of(*([config_dir] if config_dir else []))
    name = (config_name or "config").removesuffix(".yaml")
    for folder in roots.folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml", roots
    raise ConfigError(
        [unknown("primary config", name, roots.files("."), "--config-name names a file in --config-dir.")]
    )


def load(file: Path, roots: Roots, overrides: Sequence[str] = (), multirun: bool = False) -> Primary:
    """Read a primary config: its mode, its `sweep` section, its axes with `overrides` on top.

    An override of an axis replaces it. Raises ConfigError when the file does not compose, when an override does not
    parse, and when something is swept in a config that is neither MULTIRUN nor started with `-m`.
    """
    from omegaconf import OmegaConf

    overrides = launcher_overrides(overrides)
    own = [o for o in overrides if o.lstrip("+~").startswith(("sweep.", "hydra.", "hydra/"))]
    early = [f"++{o}" if o.startswith("sweep.") else o for o in own]
    with _hydra(file) as compose:
        try:
            config = compose(file.stem, [_search(file, roots), *early], return_hydra_config=True)
            sweep = OmegaConf.to_container(OmegaConf.create(OmegaConf.select(config, "sweep") or {}), resolve=True)
            params = OmegaConf.select(config, "hydra.sweeper.params") or {}
            multirun = multirun or str(config.hydra.mode).endswith("MULTIRUN")
        except hydra_errors() as error:
            raise ConfigError([f"{file}: {explain(error, roots)}"]) from error
    if not isinstance(sweep, dict) or not hasattr(params, "items"):
        raise ConfigError([f"{file}: `sweep` and `hydra.sweeper.params` must be mappings"])
    given = [f"{key}={value}" for key, value in params.items()] if multirun else []
    axes = _axes([*given, *(o for o in overrides if o not in own)], roots)
    several = [key for key, values in axes.items() if len(values) > 1]
    if several and not multirun:
        raise ConfigError(
            [
                f"{key}={','.join(axes[key])}: several values need a sweep; `vitq run -m` runs them all"
                for key in several
            ]
        )
    own_settings: Any = OmegaConf.to_container(OmegaConf.load(file))
    settings = own_settings.get("hydra") if isinstance(own_settings, dict) else None
    ignored = [f"{file}: {line}" for line in unheeded(settings)] if isinstance(settings, dict) else []
    return Primary(file, roots, multirun, {str(k): v for k, v in sweep.items()}, axes, tuple(ignored))


def expand(primary: Primary) -> Iterator[Cell]:
    """The product of the axes, first axis outermost, each cell resolved to a plain dict.

    A cell that does not compose is yielded with its problem, so that a caller can list all of them. Hydra composes once
    per choice of groups; plain values are then set on a copy, by the call that Hydra itself uses for `++key=value`.
    """
    from omegaconf import DictConfig, OmegaConf

    composed: dict[tuple[str, ...], tuple[DictConfig, dict[str, str], dict[str, Any] | None]] = {}
    search = _search(primary.file, primary.roots)
    with _hydra(primary.file) as compose:
        for values in itertools.product(*primary.axes.values()):
            overrides = [_override(key, value) for key, value in zip(primary.axes, values, strict=True)]
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
                        key, value = _value(override)
                        OmegaConf.update(config, key, value, merge=True, force_add=True)
                    raw = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            except hydra_errors() as error:
                yield Cell(shown, {}, {}, explain(error, primary.roots))
                continue
            try:
                full = with_base({str(k): v for k, v in dict(raw).items() if k != "sweep"}, primary.roots)
            except ConfigError as error:
                yield Cell(shown, choices, {}, "; ".join(error.problems))
                continue
            yield Cell(shown, choices, full)


def _compose(compose: Any, name: str, overrides: list[str]) -> tuple[Any, dict[str, str]]:
    from omegaconf import OmegaConf

    config = compose(name, overrides, return_hydra_config=True)
    choices = {str(k): str(v) for k, v in config.hydra.runtime.choices.items() if not k.startswith("hydra/")}
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    return config, choices


def _independent(config: Any) -> dict[str, Any] | None:
    """The resolved config as plain values when no value of it depends on another or is missing, else None.

    Plain values then can be set on a plain copy, which is ten times faster than on OmegaConf's own.
    """
    from omegaconf import OmegaConf

    raw = OmegaConf.to_container(config, resolve=False)
    if any(isinstance(leaf, str) and ("${" in leaf.replace("${oc.env:", "") or leaf == "???") for leaf in _leaves(raw)):
        return None
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return plain


def _leaves(node: Any) -> Iterator[Any]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else None
    if children is None:
        yield node
    else:
        for child in children:
            yield from _leaves(child)


def _set(plain: dict[str, Any], overrides: list[str]) -> dict[str, Any] | None:
    """A copy of plain values with some set; None where only OmegaConf knows what an override means."""
    out = copy.deepcopy(plain)
    for override in overrides:
        key, value = _value(override)
        if not re.fullmatch(r"[\w/-]+(\.[\w/-]+)*", key) or not isinstance(value, str | int | float | None):
            return None
        if isinstance(value, str) and ("${" in value or value == "???"):
            return None
        *parents, leaf = key.split(".")
        node: Any = out
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or isinstance(node.get(leaf), dict | list) or not all(map(_is_text, node)):
            return None
        node[leaf] = value
    return out


def _is_text(key: object) -> bool:
    return isinstance(key, str)


@cache
def _value(override: str) -> tuple[str, Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(override)
    return parsed.key_or_group, parsed.value()


def _axes(overrides: Sequence[str], roots: Roots) -> dict[str, list[str]]:
    """Parse overrides by Hydra's grammar into key → values, each as text that the grammar reads back.

    A plain value override gets Hydra's `++` (add or change): a YAML file need not list every key that may be set.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override, OverrideType
    from hydra.errors import HydraException

    parser = OverridesParser.create(config_loader=roots)  # type: ignore[arg-type]  # only get_group_options is called
    axes: dict[str, list[str]] = {}
    problems = []
    for text in overrides:
        try:
            override: Override = parser.parse_overrides([text])[0]
            key = override.get_key_element()
            is_value = "." in key or not roots.is_group(key) or isinstance(override.value(), dict)
            if is_value and override.type == OverrideType.CHANGE and override.package is None:
                key = f"++{key}"
            if override.is_delete() and override.value_type is None:
                values = [""]
            elif override.is_sweep_override():
                values = list(override.sweep_string_iterator())
            else:
                values = [override.get_value_element_as_str()]
        except HydraException as error:
            problems.append(f"override {text!r}: {first_line(error)}")
            continue
        if not key:
            problems.append(f"override {text!r}: names no key; write key=value")
        elif not is_value and not override.is_delete():
            problems += _not_names(key, text, override, roots)
        if not values:
            problems.append(unknown(f"{key} matching", text.partition("=")[2], roots.files(key)))
        axes[key] = values
    if problems:
        raise ConfigError(problems)
    return axes


def _not_names(key: str, text: str, override: Any, roots: Roots) -> Iterator[str]:
    """What stands where the name of a group's file belongs: a number, nothing, a list to lay over each other."""
    group = key.lstrip("+")
    for value in override.sweep_iterator() if override.is_sweep_override() else [override.value()]:
        if isinstance(value, list) and group != "probe":
            names = ",".join(str(v) for v in value)
            yield f"override {text!r}: {group} takes one name; several values are an axis of a sweep: {group}={names}"
            continue
        # Probes are chosen together.
        for name in value if isinstance(value, list) else [value]:
            if not isinstance(getattr(name, "text", name), str):
                yield f"override {text!r}: {unknown(group, str(name), roots.files(group))}"


def _override(key: str, value: str) -> str:
    return key if key.startswith("~") and not value else f"{key}={value}"


@contextmanager
def _hydra(file: Path) -> Iterator[Any]:
    """Hydra's `compose` with a file's folder as primary config folder; Hydra's global state is put back afterwards."""
    from hydra import compose, initialize_config_dir

    with warnings.catch_warnings():
        # Hydra 1.4 warns that the argument goes away in 1.5; 1.3 needs it.
        warnings.filterwarnings("ignore", message="The version_base parameter is deprecated")
        session = initialize_config_dir(config_dir=str(file.parent), job_name="vitq", version_base=VERSION_BASE)
    with session:
        yield compose


def _search(file: Path, roots: Roots) -> str:
    """Override that lets a primary config outside `conf/` find the groups; the file's own searchpath stays in front."""
    from omegaconf import OmegaConf

    own = OmegaConf.select(OmegaConf.load(file), "hydra.searchpath", default=None) or []
    paths = [*own, *(f"file://{folder}" for folder in roots.folders if folder != file.parent)]
    return "hydra.searchpath=[" + ",".join("'" + path.replace("'", "\\'") + "'" for path in paths) + "]"
