"""Misspelt steps and options of several forms: one line each, with what would be valid."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.test_recipe_checks import CALIBRATE, KINDS, found


def test_an_override_of_a_step_that_the_recipe_does_not_have() -> None:
    (line,) = found({"kinds": KINDS, "steps": CALIBRATE | {"al": {"enabled": False}}})
    assert line.startswith("method.steps.al: unknown step of the recipe 'al'; valid: all. Did you mean 'all'?")
    assert "A new step says what it does, method.steps.al.do=…: allocate, bias_correction, calibrate" in line
    (line, *_) = found({"kinds": KINDS, "steps": {"all": {"sites": "all"}}})
    assert line.startswith("method.steps.all.do: missing; valid: allocate, ")


@pytest.mark.parametrize(
    ("step", "value", "valid"),
    [
        ({"do": "allocate", "mean_bits": [4]}, "mean_bits=[4]", "a list of 2 numbers, or a number, or null"),
        (
            {"do": "allocate", "mean_bits": ["fp", 4]},
            "mean_bits=['fp', 4]",
            "a list of 2 numbers, or a number, or null",
        ),
        ({"do": "equalize", "strength": "serach"}, "strength='serach'", "a number, or search"),
    ],
)
def test_an_option_of_several_forms_is_one_line(step: dict[str, Any], value: str, valid: str) -> None:
    assert found({"kinds": KINDS, "steps": CALIBRATE | {"s": step}}) == [f"method.steps.s.{value}: valid: {valid}"]
