"""What the shipped recipes amount to, as numbers: those of the papers and of public code, defaults included.

A recipe leaves many numbers to the code's defaults. hyperparameters.py holds the literal values of what comes out of
both, so that a default cannot move a recipe away from its source unseen.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tests.methods.hyperparameters import DEFAULTS, KINDS, STEPS, Values
from vitq.config import MethodConfig, RunConfig
from vitq.planning import compose
from vitq.quant.quantizer import QUANTIZERS
from vitq.steps.step import Step, parse_step

ROOT = Path(__file__).resolve().parents[2]


@cache
def recipe(method: str) -> MethodConfig:
    file, roots = compose.root_config(None)
    (cell,) = compose.expand(compose.load(file, roots, (f"method={method}",)))
    config, problems = RunConfig.parse(cell.raw)
    assert config is not None, problems
    return config.method


def step(name: str, raw: Values) -> Step:
    parsed, problems = parse_step(name, raw)
    assert parsed is not None, problems
    return parsed


def test_the_tables_are_of_shipped_recipes() -> None:
    """A new method may add its numbers, and need not."""
    shipped = {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")}
    assert set(STEPS) == set(KINDS) <= shipped


@pytest.mark.parametrize("method", STEPS)
def test_steps_have_the_values_of_their_source(method: str) -> None:
    steps = {name: step(name, raw) for name, raw in recipe(method).steps.items()}
    assert list(steps) == list(STEPS[method])
    for name, values in STEPS[method].items():
        assert steps[name].enabled == values.get("enabled", True)
        assert {key: getattr(steps[name], key) for key in values} == values, name


@pytest.mark.parametrize("method", KINDS)
def test_kinds_have_the_quantizers_of_their_source(method: str) -> None:
    found = {}
    for kind, chosen in recipe(method).kinds.items():
        options = [f"{name}={value}" for name, value in chosen.options.items()]
        symmetric = ["symmetric"] if chosen.symmetric else []
        found[kind] = " ".join([chosen.quantizer, chosen.granularity, chosen.range, *symmetric, *options])
    assert found == KINDS[method]


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_recipes_leave_to_the_quantizers(name: str) -> None:
    options = QUANTIZERS[name].options
    assert {key: options[key] for key in DEFAULTS[name]} == DEFAULTS[name]


def test_recipes_that_learn_say_which_rates_suit_few_iterations() -> None:
    learning = {"reconstruct", "distill", "relu_mlp"}
    shipped = [recipe(path.stem) for path in sorted((ROOT / "conf" / "method").glob("*.yaml"))]
    learns = [not learning.isdisjoint(raw["do"] for raw in one.steps.values()) for one in shipped]
    assert [one.suited_rates is not None for one in shipped] == learns
