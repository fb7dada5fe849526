"""Where the images and the weights of a run lie: paths, which its signature does not know, and which may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vitq.config import RunConfig, signature
from vitq.config.signature import LOCAL_DIR
from vitq.errors import ConfigError, DataError, ModelError, Problem, StoreError
from vitq.planning.engine import engine
from vitq.store import Run, RunDir

# What a signature knows by content; `model.name` for `local-dir:` alone.
PATHS = ("data.root", "data.class_map", "data.labels", "model.checkpoint", "model.name")


def absolute(config: RunConfig) -> RunConfig:
    """Paths that exist here become absolute: the job may start in another folder. Others (URLs, `hfds/…`) stay."""

    def of(text: str | None) -> str | None:
        path = Path(text).expanduser() if text else None
        return str(path.absolute()) if path and path.exists() else text

    data, model = config.data, config.model
    name = model.name
    if name.startswith(LOCAL_DIR):
        name = f"{LOCAL_DIR}{of(name.removeprefix(LOCAL_DIR))}"
    data = dataclasses.replace(data, root=of(data.root), class_map=of(data.class_map), labels=of(data.labels))
    model = dataclasses.replace(model, name=name, checkpoint=of(model.checkpoint))
    return dataclasses.replace(config, data=data, model=model)


def is_path(override: str) -> bool:
    """Whether an override moves images or weights: `data.root=…`, `model.checkpoint=…`."""
    return _key(override) in PATHS


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def move(run_dir: RunDir, overrides: Sequence[str]) -> None:
    """Give a stored run the new paths of its images and weights, after checking that these are the same.

    overrides: `data.root=PATH` and so on. Raises ConfigError for other keys, and where the content is another one.
    """
    if not overrides:
        return
    if foreign := [override for override in overrides if not is_path(override)]:
        why = f"a stored run stays what it is; valid: {', '.join(PATHS)}"
        raise ConfigError(Problem(f"{override}: {why}", _key(override), override, PATHS) for override in foreign)
    stored = Run(run_dir).config
    config = absolute(_with(stored, overrides))
    sections = {_key(override).partition(".")[0] for override in overrides}
    try:
        model = engine().identify(config.model) if "model" in sections else config.model
        # Decoded images of the cache are enough for most: where no path of theirs is given, none is asked for.
        fingerprint = engine().describe(config).fingerprint if "data" in sections else config.data.fingerprint
    except (ModelError, DataError) as error:
        raise ConfigError(error.problems) from error
    moved = dataclasses.replace(config, model=model, data=dataclasses.replace(config.data, fingerprint=fingerprint))
    if signature(moved) != run_dir.signature:
        other = "weights" if model.weights != stored.model.weights else "images or labels"
        given = " ".join(overrides)
        text = f"{given}: other {other} than those of run {run_dir.signature}; give the path of the same"
        raise ConfigError([Problem(text, _key(overrides[0]), given)])
    run_dir.write_config(config.to_dict())


def _with(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    new: dict[str, dict[str, Any]] = {"data": {}, "model": {}}
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        section, _, name = key.partition(".")
        new[section][name] = None if value in ("", "null") else value.strip("'\"")
    data, model = dataclasses.replace(config.data, **new["data"]), dataclasses.replace(config.model, **new["model"])
    return dataclasses.replace(config, data=data, model=model)


def renew(run_dir: RunDir, config: RunConfig) -> None:
    """Let a finished run's stored config say where its images and weights lie today: `config` has its signature.

    Only a path that no longer exists here is replaced, so that two users of one store leave each other's alone.
    """
    if not run_dir.config_path.exists():
        return
    stored, plain = run_dir.read_config(), config.to_dict()
    changed = False
    for key in PATHS:
        section, _, name = key.partition(".")
        before, now = stored.get(section, {}).get(name), plain[section].get(name)
        if before is not None and now is not None and before != now and not _is_here(before):
            stored[section][name], changed = now, True
    if changed:
        with suppress(StoreError):  # another user's run, which we may read: their record is as good as it was
            run_dir.write_config(stored)


def _is_here(path: str) -> bool:
    return Path(path.removeprefix(LOCAL_DIR)).expanduser().exists()
