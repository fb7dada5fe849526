"""YAML files of a folder, each checked against one schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError
from yaml import YAMLError

from vitq.config.problems import config_problems
from vitq.errors import Problem

T = TypeVar("T")


def read_files(folder: Path, kind: type[T]) -> tuple[dict[str, T], list[Problem]]:
    """Name of the file without its suffix → what it holds, sorted by name; and every problem of every file."""
    adapter: Any = TypeAdapter(kind)
    files: dict[str, T] = {}
    problems: list[Problem] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            # OmegaConf refuses a key that is there twice, which PyYAML drops in silence.
            files[path.stem] = adapter.validate_python(OmegaConf.to_container(OmegaConf.load(path)))
        except YAMLError as error:
            problems.append(Problem(f"{path.name}: {' '.join(str(error).split())}", "YAML", path.name, where=path.name))
        except ValidationError as error:
            wrong = config_problems(error, kind)
            problems += [problem.reworded(f"{path.name}: {problem}", path.name) for problem in wrong]
    return files, problems
