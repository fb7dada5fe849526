"""Misspelt steps and options of several forms: one line each, with what would be valid."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.recipes import CALIBRATE, KINDS, recipe_problems
from tests.errors import is_about


def test_an_override_of_a_step_that_the_recipe_does_not_have() -> None:
    (problem,) = recipe_problems({"kinds": KINDS, "steps": CALIBRATE | {"al": {"enabled": False}}})
    assert is_about(problem, "method.steps.al", "al", ["all"])
    assert problem.action == "all"
    (problem, *_) = recipe_problems({"kinds": KINDS, "steps": {"all": {"sites": "all"}}})
    assert is_about(problem, "method.steps.all.do", None, ["allocate", "bias_correction", "calibrate"])


@pytest.mark.parametrize(
    ("step", "value", "valid"),
    [
        ({"do": "allocate", "mean_bits": [4]}, [4], ("a list of 2 numbers", "a number", "null")),
        ({"do": "allocate", "mean_bits": ["fp", 4]}, ["fp", 4], ("a list of 2 numbers", "a number", "null")),
        ({"do": "equalize", "strength": "serach"}, "serach", ("a number", "search")),
    ],
)
def test_an_option_of_several_forms_is_one_line(step: dict[str, Any], value: object, valid: tuple[str, ...]) -> None:
    (problem,) = recipe_problems({"kinds": KINDS, "steps": CALIBRATE | {"s": step}})
    (option,) = step.keys() - {"do"}
    assert is_about(problem, f"method.steps.s.{option}", value)
    assert problem.valid == valid
