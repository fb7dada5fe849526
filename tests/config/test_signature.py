"""The identity of a run: what changes it, what does not, and that it never changes by accident."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from vitq.config import CalibConfig, DataConfig, MethodConfig, ModelConfig, RunConfig, TrackerConfig, signature
from vitq.config.run import LATER

RAW: dict[str, Any] = {
    "model": {"name": "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "kwargs": {"depth": 2}},
    "data": {"name": "imagenet", "root": "/a", "fingerprint": "f"},
    "method": {
        "name": "m",
        "kinds": {"weight": {"granularity": "channel"}, "default": {}},
        "steps": {"a": {"do": "calibrate", "sites": "activations"}, "b": {"do": "calibrate", "sites": "weights"}},
    },
    "bits": {"weight": 4, "activation": 4, "sites": {"blocks.*": 4, "blocks.0.*": 8}},
}


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in change.items():
        result[key] = merged(base[key], value) if isinstance(value, dict) and key in base else value
    return result


def sign(**change: Any) -> str:
    config, problems = RunConfig.parse(merged(RAW, change))
    assert config is not None, problems
    return signature(config)


def test_the_signature_is_what_it_was() -> None:
    """A golden value. When it changes, every stored run loses its name: say so in CHANGELOG, raise SCHEMA_VERSION."""
    assert sign() == "d7e7cad6d18e1a29"


def test_the_signature_of_an_embedded_model_is_what_it_was() -> None:
    """Before images could be shifted further while it is trained."""
    train = {"seed": 0, "epochs": 40, "batch_size": 32, "lr": 2e-3, "weight_decay": 0.05}
    assert sign(model={"train": train}) == sign(model={"train": {**train, "shift": 1 / 32}}) == "c5ac029b45c21c5f"
    assert sign(model={"train": {**train, "shift": 1 / 16}}) != sign(model={"train": train})


def test_a_part_that_a_recipe_got_later_and_that_is_off_is_no_part_of_it() -> None:
    """`centre` in rols."""
    steps = {"centre": {"do": "centre", "enabled": False}}
    assert sign(method={"steps": steps}) == sign()
    assert sign(method={"steps": {"centre": {"do": "centre"}}}) != sign()


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_the_hash_seed_does_not_matter(seed: str) -> None:
    code = f"from vitq.config import *; print(signature(RunConfig.parse({RAW!r})[0]))"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True)
    assert done.stdout.strip() == sign(), done.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"runs_dir": "elsewhere"},
        {"cache_dir": "/tmp"},
        {"device": "cuda"},
        {"tracker": {"name": "wandb", "mode": "online"}},
        {"launcher": {"name": "slurm"}},
        {"probe": {"names": ["hessian"]}},
        {"data": {"root": "/b", "workers": 7, "class_map": "x.txt", "labels": "y.csv", "allow_overlap": True}},
        {"model": {"checkpoint": "/c.safetensors", "fp_top1": 72.2}},
        {"calib": {"cache": "disk"}},
    ],
)
def test_places_and_trackers_are_no_part_of_it(change: dict[str, Any]) -> None:
    assert sign(**change) == sign()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"bits": {"weight": 3}},
        {"bits": {"kinds": {"probs": 8}}},
        {"calib": {"size": 64}},
        {"data": {"fingerprint": "g"}},
        {"model": {"weights": "abc"}},
        {"model": {"crop_pct": 0.875}},
        {"model": {"checkpoint_key": "ema"}},
        {"data": {"eval_limit": 9}},
        {"method": {"kinds": {"default": {"range": "mse"}}}},
        {"method": {"steps": {"a": {"images": 8}}}},
        {"method": {"iterations": 7}},
    ],
)
def test_what_changes_a_result_changes_it(change: dict[str, Any]) -> None:
    assert sign(**change) != sign()


def test_the_order_of_steps_and_patterns_counts() -> None:
    steps, sites = RAW["method"]["steps"], RAW["bits"]["sites"]
    turned = {**RAW, "method": {**RAW["method"], "steps": dict(reversed(steps.items()))}}
    patterns = {**RAW, "bits": {**RAW["bits"], "sites": dict(reversed(sites.items()))}}
    kinds = {**RAW, "method": {**RAW["method"], "kinds": dict(reversed(RAW["method"]["kinds"].items()))}}
    signatures = [signature(RunConfig.parse(raw)[0]) for raw in (RAW, turned, patterns)]  # type: ignore[arg-type]
    assert len(set(signatures)) == 3
    assert signature(RunConfig.parse(kinds)[0]) == signatures[0], "the order of kinds means nothing"  # type: ignore[arg-type]


def test_full_precision_has_one_identity() -> None:
    raw = {**RAW, "method": {"name": "fp32"}}
    variants = [raw, {**raw, "seed": 5}, {**raw, "bits": {"weight": 8, "activation": 8}}, {**raw, "calib": {"size": 1}}]
    assert len({signature(RunConfig.parse(v)[0]) for v in variants}) == 1  # type: ignore[arg-type]


def test_a_config_survives_its_plain_form() -> None:
    config, _ = RunConfig.parse(RAW)
    assert config is not None
    again, problems = RunConfig.parse(config.to_dict())
    assert again == config, problems
    assert signature(config) == sign()


def default_of(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


_SECTIONS = [
    ("model", ModelConfig),
    ("data", DataConfig),
    ("method", MethodConfig),
    ("calib", CalibConfig),
    ("tracker", TrackerConfig),
]


@pytest.mark.parametrize(("section", "kind"), _SECTIONS)
def test_later_keys_are_stored_where_they_are_used(section: str, kind: type) -> None:
    used: dict[str, Any] = {
        "checkpoint_key": "ema",
        "labels": "y.csv",
        "eval_choice": "spread",
        "white": 4095,
        "held_out": 9,
        "allow_overlap": True,
        "store_url": "http://lab:8000",
        "short_side": 800,
        "long_side": 1333,
        "scope": "backbone",
        "rates": "sqrt",
        "suited_rates": "paper",
        "ids": [5, 3],
    }
    used["tune"] = {"steps.a.x": {"low": 1, "high": 2, "log": False, "choices": None}}
    used["tuned"] = {
        "study": "s",
        "method": "m",
        "trials": 1,
        "seconds": 1.0,
        "held_out": 9,
        "kl": 0.1,
        "kl_before": None,
    }
    defaults = {field.name: default_of(field) for field in dataclasses.fields(kind)}
    plain, _ = RunConfig.parse(RAW)
    assert plain is not None
    for key, default in LATER[section].items():
        assert defaults[key] == default
        assert key not in plain.to_dict()[section]
        config, problems = RunConfig.parse(merged(RAW, {section: {key: used[key]}}))
        assert config is not None, problems
        assert config.to_dict()[section][key] == used[key]
        assert RunConfig.parse(config.to_dict()) == (config, [])
        assert RunConfig.parse(merged(plain.to_dict(), {section: {key: default}})) == (plain, [])


def test_a_tuned_recipe_has_the_rates_that_were_tuned() -> None:
    tuned = {"study": "s", "method": "m", "trials": 1, "seconds": 1.0, "held_out": 9, "kl": 0.1, "kl_before": None}
    method = {"suited_rates": "sqrt", "rates": "suited", "iterations": 5}
    plain, chosen = (RunConfig.parse(merged(RAW, {"method": method | more}))[0] for more in ({}, {"tuned": tuned}))
    assert plain is not None
    assert chosen is not None
    assert (plain.method.rates, chosen.method.rates) == ("sqrt", "paper")
