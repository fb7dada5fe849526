"""The identity of a run: what is hashed, and what is not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from vitq.config.bits import BitsConfig
from vitq.config.run import RunConfig

# Raised when the engine changes so that the same config means another result. Part of every signature.
SCHEMA_VERSION = 4

# A part of a recipe that is off has no place in the record of runs from before the recipe had it.
_OFF = {"centre": {"do": "centre", "enabled": False}}

# timm's prefix for a folder with weights and their configuration: `model.weights` stands for its content.
LOCAL_DIR = "local-dir:"

# Keys that do not change a result. Paths are volatile; the content hashes beside them (`model.weights`,
# `data.fingerprint`) are not.
VOLATILE = (
    "runs_dir",
    "cache_dir",
    "device",
    "tracker",
    "probe",  # probes look at the quantized model and never change it
    "launcher",
    "keep_model",
    "data.root",
    "data.class_map",
    "data.labels",
    "data.allow_overlap",  # whether such a run is wanted, not what comes out
    "data.workers",
    "model.checkpoint",
    "model.fp_top1",
    "calib.cache",
    "method.source",
    "method.suited_rates",  # `method.rates` says which it was
    "method.tune",
    "method.tuned",
)


def canonical(config: RunConfig) -> dict[str, Any]:
    """The hashed part of a config as a plain dict.

    A method that quantizes nothing has one identity whatever the bit-width, calibration or seed, so that a sweep over
    bits × seeds holds one full-precision run and not one for each cell.
    """
    plain = config.to_dict()
    if not config.method.quantizes:
        plain["bits"] = asdict(BitsConfig(weight="fp", activation="fp"))
        del plain["bits"]["scope"]  # left out where it is the default, as by `to_dict`
        del plain["calib"], plain["seed"]
    for key in VOLATILE:
        *parents, leaf = key.split(".")
        node = plain
        for parent in parents:
            node = node.get(parent, {})
        node.pop(leaf, None)
    if plain["data"].get("eval_choice") == "first":  # what `eval_limit` meant when there was no choice
        del plain["data"]["eval_choice"]
    if plain["data"].get("white") == 65535:  # what 16 bits meant when there was no choice
        del plain["data"]["white"]
    plain["method"]["steps"] = {n: raw for n, raw in plain["method"]["steps"].items() if raw != _OFF.get(n)}
    if config.model.name.startswith(LOCAL_DIR) and config.model.weights is not None:
        plain["model"]["name"] = LOCAL_DIR
    return plain


def orders(config: RunConfig) -> dict[str, list[str]]:
    """Names in order where it has a meaning, which sorted keys forget: steps run in it, the last pattern wins."""
    sites = config.bits.sites if config.method.quantizes else {}
    steps = [name for name, raw in config.method.steps.items() if raw != _OFF.get(name)]
    return {"method.steps": steps, "bits.sites": list(sites)}


def signature(config: RunConfig) -> str:
    """16 hex digits of sha256 over the canonical JSON of the resolved config and the schema version."""
    text = json.dumps(
        {"schema_version": SCHEMA_VERSION, "config": canonical(config), "order": orders(config)},
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
        ensure_ascii=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
