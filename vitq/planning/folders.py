"""Where a run writes: folders of this machine, absolute, that can be made. Asked before anything starts."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from vitq.config import RunConfig
from vitq.errors import Problem

# Key → the environment variable that sets it where no config does.
ENVIRONMENT = {"runs_dir": "VITQ_RUNS_DIR", "cache_dir": "VITQ_CACHE_DIR"}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def settle(config: RunConfig) -> tuple[RunConfig, list[Problem]]:
    """The config with its folders absolute (`~` expanded; an empty one is the default), and what is wrong with them."""
    problems: list[Problem] = []
    folders: dict[str, Any] = {}
    for key in ENVIRONMENT:
        folders[key] = _settle(key, getattr(config, key) or getattr(RunConfig, key), problems)
    config = dataclasses.replace(config, **folders)
    if config.tracker.dir:
        folder = _settle("tracker.dir", config.tracker.dir, problems)
        config = dataclasses.replace(config, tracker=dataclasses.replace(config.tracker, dir=folder))
    return config, problems


def _settle(key: str, folder: str, problems: list[Problem]) -> str:
    instead = f"{key}=DIR" + (f" or {ENVIRONMENT[key]}" if key in ENVIRONMENT else "")

    def refuse(why: str) -> None:
        problems.append(Problem(f"{key}={folder}: {why}; set {instead}", key, folder, action=instead))

    if _URL.match(folder):
        refuse("it is a URL; vitq writes to a folder of this machine, which a mounted bucket is too")
        return folder
    try:
        path = Path(folder).expanduser().absolute()
    except RuntimeError:
        refuse("this user has no home folder (HOME is not set)")
        return folder
    here = next(parent for parent in (path, *path.parents) if parent.exists())
    if here != path and not (here.is_dir() and os.access(here, os.W_OK | os.X_OK)):
        refuse(f"it does not exist, and {here} cannot be written")
    return str(path)
