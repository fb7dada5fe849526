"""A method on top of another: `method.base` names the recipe whose kinds and steps come first."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vitq.config.search_path import ConfigPath
from vitq.errors import ConfigError, Problem, first_line, under, unknown


def with_base(raw: dict[str, Any], search_path: ConfigPath) -> dict[str, Any]:
    """The config with `method.base` resolved: the base's kinds and steps, then the method's own, merged key by key.

    The name says both, `scale_predictor(ias_vit)`, and no `base` remains: the whole recipe is stored and signed.
    Raises ConfigError for a base that does not exist, quantizes nothing, or has a base itself.
    """
    method = raw.get("method")
    if not isinstance(method, Mapping) or "base" not in method:
        return raw
    base, files = method["base"], search_path.files("method")
    if not isinstance(base, str) or base not in files:
        raise ConfigError([under("method.base", unknown("method", str(base), files))])
    try:
        below = yaml.safe_load(files[base].read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise _refused(base, files, f"cannot read {files[base]}: {first_line(error)}") from error
    if not isinstance(below, Mapping) or "name" not in below:
        raise _refused(base, files, f"{files[base]} is no recipe; it needs a mapping with a name and kinds")
    if "base" in below:
        raise _refused(base, files, "that method stands on a base itself; name the recipe below it")
    if not below.get("kinds"):
        raise _refused(base, files, "that method quantizes nothing")
    own = {key: value for key, value in method.items() if key != "base"}
    if not isinstance(own.get("name", base), str):
        raise ConfigError([Problem(f"method.name={own['name']}: a text is needed", "method.name", own["name"])])
    merged = _merge(_without_options_of_others(below, own), own)
    return {**raw, "method": {**merged, "name": f"{own.get('name', base)}({below['name']})"}}


def _refused(base: str, files: Mapping[str, Path], why: str) -> ConfigError:
    return ConfigError([Problem(f"method.base={base}: {why}", "method.base", base, where=str(files[base]))])


def _without_options_of_others(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The base, less the options of kinds to which the method above it gives another quantizer."""
    kept = copy.deepcopy(dict(below))
    for kind, entry in (above.get("kinds") or {}).items():
        old = kept["kinds"].get(kind)
        if old and isinstance(entry, Mapping) and entry.get("quantizer", old.get("quantizer")) != old.get("quantizer"):
            old.pop("options", None)
    return kept


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    out = copy.deepcopy(dict(below))
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
            out[key] = _merge(out[key], value)
        else:
            out[key] = copy.deepcopy(value)
    return out
