"""Where a key of a composed config was written: which file, which line of it, and as which text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from vitq.config.search_path import SUFFIXES, ConfigPath

# What YAML 1.1 takes for a number to the base 60, and people for a time: `2:00:00` is read as 7200.
_TO_THE_BASE_60 = re.compile(r"[-+]?\d+(:[0-5]?\d)+(\.\d*)?")
_GLOBAL = re.compile(r"\s*#\s*@package\s+_global_\b")


def origin(key: str, primary: Path, search_path: ConfigPath, choices: Mapping[str, str]) -> tuple[str, str | None]:
    """`conf/calib/mine.yaml, line 3` for a dotted key, and its value as it is written there, None where that holds keys
    or items of its own; ('', None) where no file has it, as with an override's.

    Looked for in the primary config, in the files of the groups that were chosen, and in `config.yaml`. choices: group
    → option, as far as they are known.
    """
    for file, rest in _candidates(key, primary, search_path, choices):
        nodes = _find(_read(file), rest)
        if nodes is not None:
            name, value = nodes
            text = str(value.value) if isinstance(value, yaml.ScalarNode) else None
            return f"{file}, line {name.start_mark.line + 1}", text
    return "", None


def launcher_as_written(
    launcher: Any, primary: Path, search_path: ConfigPath, choices: Mapping[str, str], overridden: Collection[str]
) -> Any:
    """A composed `launcher` section with times among its options as files have them, but for the `overridden` keys:
    `time: 2:00:00` without quotes is the number 7200 for YAML 1.1."""
    options = launcher.get("options") if isinstance(launcher, dict) else None
    if not isinstance(options, dict):
        return launcher

    def written(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: written(f"{key}.{name}", item) for name, item in value.items()}
        candidates = () if key in overridden else _candidates(key, primary, search_path, choices)
        return as_written(value, candidates)

    return {**launcher, "options": written("launcher.options", options)}


def as_written(value: Any, candidates: Iterable[tuple[Path, str]]) -> Any:
    """The text of a time like `2:00:00` that YAML turned into this number, in the first of them that has the key; else
    the value. candidates: files, and the dotted key in each."""
    # Hydra makes texts of the values of axes.
    if not re.fullmatch(r"\d{2,}(\.\d+)?", str(value)):
        return value
    for file, key in candidates:
        nodes = _find(_read(file), key)
        if nodes is not None:
            text = str(getattr(nodes[1], "value", ""))
            return text if _TO_THE_BASE_60.fullmatch(text) and str(yaml.safe_load(text)) == str(value) else value
    return value


def _candidates(
    key: str, primary: Path, search_path: ConfigPath, choices: Mapping[str, str]
) -> Iterator[tuple[Path, str]]:
    """Files that may have a key, and the key in each, the one that counts first."""
    parts = key.split(".")
    groups = ["/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
    for file, package in files_of(primary, search_path, choices, groups):
        if not package or key.startswith(f"{package}."):
            yield file, key.removeprefix(f"{package}.") if package else key


def files_of(
    primary: Path, search_path: ConfigPath, choices: Mapping[str, str], groups: Iterable[str]
) -> Iterator[tuple[Path, str]]:
    """Files that a config is composed of, and the dotted key that each fills in ('' for the whole config), the one that
    counts first. groups: those whose options are of interest; options that fill in the whole config always are.

    Behind each file come those that its own defaults list includes by name (`defaults: [base, _self_]`).
    """

    def lookup(group: str, option: str) -> Path | None:
        known = search_path.file(group, option)
        if known is not None:
            return known
        folders = [primary.parent, *_own_searchpath(primary)]
        files = (folder / group / f"{option}{suffix}" for folder in folders for suffix in SUFFIXES)
        return next((file for file in files if file.is_file()), None)

    def files_of(file: Path, group: str, package: str, above: tuple[Path, ...] = ()) -> Iterator[tuple[Path, str]]:
        package = "" if _GLOBAL.match(_text(file)) else package
        names = _included(file)
        for name in reversed(names if "_self_" in names else [*names, "_self_"]):
            if name == "_self_":
                yield file, package
                continue
            path, _, other = name.partition("@")
            folder, _, option = path.lstrip("/").rpartition("/")
            inner = folder if path.startswith("/") else "/".join(filter(None, (group, folder)))
            below = lookup(inner, option)
            if below is None or below == root or below in (file, *above):
                continue
            own = {"": inner.replace("/", "."), "_global_": "", "_here_": package}.get(other)
            if own is None:
                own = ".".join(filter(None, (package, other)))
            yield from files_of(below, inner, own, (*above, file))

    root = search_path.file("", "config")
    yield from files_of(primary, "", "")
    for group, option in choices.items():
        file = lookup(group, option)
        if file is not None and _GLOBAL.match(_text(file)):
            yield from files_of(file, group, "")
    for group in groups:
        file = lookup(group, choices[group]) if group in choices else None
        if file is not None:
            yield from files_of(file, group, group.replace("/", "."))
    if root is not None and root != primary:
        yield root, ""


def scalars_of(file: Path) -> list[tuple[str, yaml.ScalarNode]]:
    """Every value of a YAML file that holds nothing else, with its dotted key; those of a list have numbers."""
    return list(_scalars(_read(file)))


def _scalars(node: yaml.Node | None, key: str = "") -> Iterator[tuple[str, yaml.ScalarNode]]:
    if isinstance(node, yaml.ScalarNode):
        yield key, node
    elif isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        items = enumerate(node.value) if isinstance(node, yaml.SequenceNode) else node.value
        for name, value in items:
            yield from _scalars(value, f"{key}.{getattr(name, 'value', name)}".lstrip("."))


def _included(file: Path) -> list[str]:
    """The entries of a file's defaults list that are plain names, in order: `base`, `/group/base`, `_self_`."""
    return _texts(_read(file), "defaults")


def _own_searchpath(primary: Path) -> list[Path]:
    """The folders of a primary config's own `hydra.searchpath`."""
    return [Path(url.removeprefix("file://")) for url in _texts(_read(primary), "hydra.searchpath")]


def _texts(node: yaml.Node | None, key: str) -> list[str]:
    """The plain texts in the list at a dotted key; [] where it has none."""
    nodes = _find(node, key)
    items = nodes[1].value if nodes is not None and isinstance(nodes[1], yaml.SequenceNode) else []
    return [str(item.value) for item in items if isinstance(item, yaml.ScalarNode)]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _read(file: Path) -> yaml.Node | None:
    return _node(_text(file))


@lru_cache(maxsize=256)
def _node(text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return None


def _find(node: yaml.Node | None, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    """The nodes of a dotted key and of its value."""
    if not isinstance(node, yaml.MappingNode):
        return None
    for name, value in node.value:
        word = str(getattr(name, "value", ""))
        if word == key:  # axes of a sweep have dotted names: `params: {calib.size: "32,64"}`
            return name, value
        if key.startswith(f"{word}."):
            nodes = _find(value, key.removeprefix(f"{word}."))
            if nodes is not None:
                return nodes
    return None
