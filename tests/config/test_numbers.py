"""What is no number is not taken for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.errors import is_about
from vitq.config import LauncherConfig, RunConfig
from vitq.config.sweep import SweepConfig
from vitq.errors import Problem
from vitq.planning.launcher import launcher_problems
from vitq.probes.probe import parse_probe
from vitq.steps.step import parse_step

RAW: dict[str, Any] = {
    "model": {"name": "vit_tiny_patch16_224"},
    "data": {"name": "digits", "dataset": "digits"},
    "method": {"name": "m", "kinds": {"default": {}}, "steps": {"a": {"do": "calibrate", "enabled": True}}},
}


@pytest.mark.parametrize("key", ["seed", "calib.size", "data.workers", "model.crop_pct", "probe.max_seconds"])
def test_true_is_no_number(key: str) -> None:
    """YAML's `yes`, `on` and `true`, which Python counts as 1."""
    *sections, leaf = key.split(".")
    raw = {**RAW, **{section: {**RAW.get(section, {}), leaf: True} for section in sections}}
    raw = raw if sections else {**RAW, leaf: True}
    config, (problem,) = RunConfig.parse(raw)
    assert config is None
    assert is_about(problem, key, True)


def test_true_stays_what_it_is_where_it_is_one() -> None:
    raw = {**RAW, "keep_model": True, "calib": {"balanced": False}, "launcher": {"options": {"exclusive": True}}}
    config, problems = RunConfig.parse(raw)
    assert config is not None, problems
    assert (config.keep_model, config.calib.balanced, config.launcher.options) == (True, False, {"exclusive": True})
    assert config.method.steps["a"]["enabled"] is True


@pytest.mark.parametrize(
    ("parse", "key"),
    [
        (lambda: parse_step("s", {"do": "reconstruct", "batch_size": True}), "method.steps.s.batch_size"),
        (lambda: parse_probe("landscape", {"points": False}), "probe.options.landscape.points"),
        (lambda: (None, launcher_problems(LauncherConfig("local", {"slots": True}))), "launcher.options.slots"),
        (lambda: SweepConfig.parse({"budget_seconds": True}, "s"), "sweep.budget_seconds"),
    ],
)  # fmt: skip
def test_true_is_no_number_of_an_option_either(parse: Callable[[], tuple[Any, list[Problem]]], key: str) -> None:
    parsed, (problem,) = parse()
    assert parsed is None
    assert is_about(problem, key)
    assert isinstance(problem.value, bool)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_cannot_hold_are_refused_wherever_they_stand(value: float) -> None:
    """Stored as null they would be another config's: no budget at all, under that config's signature."""
    steps = {"all": {"do": "calibrate"}, "a": {"do": "allocate", "size_mb": value, "mean_bits": [4, value]}}
    kinds = {"default": {"options": {"percentiles": [0.99, value]}}}
    raw = RAW | {
        "method": {"name": "x", "kinds": kinds, "steps": steps},
        "model": {"name": "m", "mean": [value, 0, 0]},
    }
    config, problems = RunConfig.parse(raw)
    assert config is None
    keys = [
        "method.kinds.default.options.percentiles.1",
        "method.steps.a.mean_bits.1",
        "method.steps.a.size_mb",
        "model.mean.0",
    ]
    assert sorted(problem.key for problem in problems) == keys
    assert all(problem.value is value for problem in problems)
