"""A problem of a config, with the file and line that it comes from, and what was probably meant."""

from __future__ import annotations

from difflib import get_close_matches

from vitq.config import RunConfig
from vitq.config.reference import entries, keys
from vitq.config.search_path import installed
from vitq.errors import Problem
from vitq.planning.compose import ConfigCell, Primary
from vitq.planning.origin import origin


def located(problem: Problem, cell: ConfigCell, primary: Primary) -> Problem:
    """The problem with the file and line of its key where a file of the user's has it; an override says itself where it
    is. With a hint where a list stands for several runs, or a name for an option of a group."""
    key, groups = problem.key, primary.search_path
    if not key or cell.problem is not None:
        return problem
    given = dict(override.lstrip("+").split("=", 1) for override in cell.overrides if "=" in override)
    typed = {name: value for name, value in given.items() if name not in cell.choices}  # a group's option is a file
    text, written, action = str(problem), "", ""
    if problem.value == key and "." not in key and (meant := get_close_matches(key, keys(), 1, 0.85)):
        text, action = f"{text.partition(' Did you mean')[0]} Did you mean {meant[0]!r}?", meant[0]  # `calib_size`
    # Else it is no value of the key, or the list is what the key takes.
    if isinstance(problem.value, list) and given.get(key, "").startswith("[") and not _takes_a_list(key):
        action = f"vitq run -m {key}={','.join(map(str, problem.value))}"
        text += f"; several values are runs of their own: {action}, without brackets or quotes"
    if isinstance(problem.value, str) and groups.is_group(key) and problem.value in groups.files(key):
        action = f"- override /{key}: {problem.value}"
        text += f"; {key} is a group: choose its option in the defaults, `{action}`"
    if not any(key == name or key.startswith(f"{name}.") for name in typed):
        written, _ = origin(key, primary.file, groups, cell.choices)
        if written and not written.startswith(tuple(f"{folder}/" for folder in installed("conf"))):
            text += f" ({written})"
    return problem.reworded(text, written, action)


def _takes_a_list(key: str) -> bool:
    return any(entry.key == key and "list of" in entry.kind for entry in entries(RunConfig))
