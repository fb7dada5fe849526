"""Where a key of a composed config was written: which file, and which line of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from vitq.config.search_path import ConfigPath


def origin(key: str, primary: Path, search_path: ConfigPath, choices: Mapping[str, str]) -> str:
    """`conf/calib/mine.yaml, line 3` for a dotted key; '' where no file has it, as with an override's.

    Looked for in the primary config, in the files of the groups that were chosen, and in `config.yaml`. choices: group
    → option, as far as they are known.
    """
    parts = key.split(".")
    candidates = [(primary, key)]
    for count in range(len(parts) - 1, 0, -1):
        group = "/".join(parts[:count])
        file = search_path.file(group, choices[group]) if group in choices else None
        if file is not None:
            candidates.append((file, ".".join(parts[count:])))
    root = search_path.file("", "config")
    candidates += [(root, key)] if root is not None and root != primary else []
    for file, rest in candidates:
        line = line_of(file, rest)
        if line is not None:
            return f"{file}, line {line}"
    return ""


def line_of(file: Path, key: str) -> int | None:
    """The line of a YAML file, counted from 1, on which a dotted key stands; None where it does not."""
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return _line(node, key)


def _line(node: yaml.Node | None, key: str) -> int | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    for name, value in node.value:
        word = str(getattr(name, "value", ""))
        if word == key:  # axes of a sweep have dotted names: `params: {calib.size: "32,64"}`
            return int(name.start_mark.line) + 1
        if key.startswith(f"{word}."):
            line = _line(value, key.removeprefix(f"{word}."))
            if line is not None:
                return line
    return None
