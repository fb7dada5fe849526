"""Values that YAML 1.1 reads as something else than they say to a reader: `010` is 8, `1:30` is 90, `off` is false."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import yaml

from vitq.config.search_path import ConfigPath, installed
from vitq.errors import Problem
from vitq.planning.origin import files_of, scalars_of

_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_SWITCH = re.compile(r"yes|no|on|off", re.IGNORECASE)
_AXES = "hydra.sweeper.params."
# Whose values may be anything: no type says whether `off` is a text or false there.
_OPEN = ("model.kwargs.", "launcher.options.extra.")
# Times of a scheduler, `2:00:00`, which are taken as they are written (`launcher_as_written`).
_TIMES = "launcher.options."


class Misread:
    """What is misread in the files of configs; each file is read once."""

    def __init__(self, primary: Path, search_path: ConfigPath):
        self._primary, self._search_path = primary, search_path
        self._shipped = tuple(f"{folder}/" for folder in installed("conf"))
        self._known: dict[tuple[Path, str], list[Problem]] = {}
        self._files: dict[str, list[tuple[Path, str]]] = {}

    def problem(self, choices: Mapping[str, str], base: object, overridden: Collection[str]) -> Problem | None:
        """The first value that is misread in a composed config. base: `method.base`. overridden: keys whose values in
        files do not count."""
        asked = f"{choices} {base}"
        if asked not in self._files:
            self._files[asked] = list(self._of(choices, base))
        problems = (problem for file in self._files[asked] for problem in self._in(*file))
        return next((problem for problem in problems if problem.key not in overridden), None)

    def _of(self, choices: Mapping[str, str], base: object) -> Iterator[tuple[Path, str]]:
        groups = sorted(choices, key=lambda group: -group.count("/"))
        below = self._search_path.file("method", base) if isinstance(base, str) else None
        yield from files_of(self._primary, self._search_path, choices, groups)
        if below is not None:
            yield below, "method"

    def _in(self, file: Path, package: str) -> list[Problem]:
        if (file, package) not in self._known:
            shipped = str(file).startswith(self._shipped)
            self._known[file, package] = [] if shipped else list(_misread(file, package))
        return self._known[file, package]


def word_for_switch(key: str, value: str) -> Problem | None:
    """What is wrong with an override that gives `yes` or `off` where the grammar reads a text and a switch is meant."""
    if not key.startswith(_OPEN[0]) or not _SWITCH.fullmatch(value):
        return None
    return Problem(f"{key}={value}: a text here, which counts as true; {_switch(value)}", key, value)


def _misread(file: Path, package: str) -> Iterator[Problem]:
    for name, node in scalars_of(file):
        if node.style is not None:  # in quotes, or a block of text
            continue
        key, text = f"{package}.{name}" if package else name, node.value
        meant = key.removeprefix(_AXES)
        kind = node.tag.rpartition(":")[2]
        why = ""
        if kind == "int" and _OCTAL.fullmatch(text):
            digits, read = int(text.replace("_", "")), yaml.safe_load(text)
            why = f"YAML reads {read}, to the base 8 because of the zero in front; write {read} or {digits}"
            why = "" if read == digits else why
        elif kind in ("int", "float") and ":" in text and not meant.startswith(_TIMES):
            why = f"YAML reads {yaml.safe_load(text)}, to the base 60; write the number, or put a text in quotes"
        elif kind == "bool" and _SWITCH.fullmatch(text) and meant.startswith(_OPEN):
            why = f"YAML reads {str(yaml.safe_load(text)).lower()}; {_switch(text)}"
        if why:
            where = f"{file}, line {node.start_mark.line + 1}"
            yield Problem(f"{key}={text}: {why} ({where})", key, text, where=where)


def _switch(word: str) -> str:
    return f"write {str(yaml.safe_load(word)).lower()}, or put a text in quotes"
