"""Steps: their names, their order in a recipe, and how a class becomes one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from tests.errors import refuses
from vitq.config import RunConfig
from vitq.engine import recipe_checks
from vitq.errors import ConfigError
from vitq.steps import STEPS, Step, Workspace, register_step
from vitq.steps.step import enabled_steps, parse_step, steps_before

CALIBRATE = {"do": "calibrate"}
LEARN = {"do": "reconstruct", "iterations": 2}


def config(steps: dict[str, Any]) -> RunConfig:
    raw = {
        "model": {"name": "tiny", "input_size": 32},
        "data": {"name": "random"},
        "method": {"name": "test", "kinds": {"default": {}, "weight": {}}, "steps": steps},
        "bits": {"weight": 4, "activation": 4},
        "calib": {"size": 8},
    }
    found, problems = RunConfig.parse(raw)
    assert found is not None, problems
    return found


def test_two_equal_stages_are_two_steps() -> None:
    made = config({"ranges": CALIBRATE, "first": LEARN, "off": {**LEARN, "enabled": False}, "second": LEARN})
    ranges, first, second = enabled_steps(made)
    assert [step.name for step in (ranges, first, second)] == ["ranges", "first", "second"]
    assert first == second, "their options are the same"
    assert enabled_steps(made, before=first) == [ranges]
    assert [step.name for step in enabled_steps(made, before=second)] == ["ranges", "first"]


def test_what_ran_before_does_not_depend_on_names() -> None:
    """It is part of a cache's key: a recipe that calls its steps otherwise finds what was measured."""
    one, other = config({"a": CALIBRATE, "b": LEARN}), config({"ranges": CALIBRATE, "learn": LEARN})
    assert steps_before(one) == steps_before(other)
    assert steps_before(one)[0]["do"] == "calibrate"
    assert "name" not in steps_before(one)[0]


def test_a_step_of_no_recipe_has_the_name_of_what_it_does() -> None:
    assert STEPS["calibrate"]("calibrate").name == "calibrate"


def test_a_recipe_with_a_step_that_cannot_be_parsed_has_no_steps() -> None:
    with pytest.raises(ConfigError) as raised:
        enabled_steps(config({"a": CALIBRATE, "b": {"do": "reconstruct", "iterations": "many"}}))
    assert [problem.key for problem in raised.value.problems] == ["method.steps.b.iterations"]


@pytest.fixture
def registered() -> Iterator[type[Step]]:
    """A step that a test registers, taken out of the registry afterwards."""

    @register_step("test_only")
    class Only(Step):
        """Does nothing."""

        factor: float = 0.5
        names: tuple[str, ...] = ()
        tunes_weights = True

        def run(self, work: Workspace) -> None:
            return None

    yield Only
    del STEPS._items["test_only"]


def test_the_decorator_makes_a_frozen_validated_step(registered: type[Step]) -> None:
    step, problems = parse_step("mine", {"do": "test_only", "factor": 2, "names": ["a"]})
    assert isinstance(step, registered), problems
    assert dataclasses.asdict(step) == {"do": "test_only", "enabled": True, "factor": 2.0, "names": ("a",)}
    assert (step.name, step.tunes_weights, step.depends_on_bits) == ("mine", True, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.enabled = False  # type: ignore[misc]
    refused, problems = parse_step("mine", {"do": "test_only", "factor": "big"})
    assert refused is None
    assert [problem.split("=")[0] for problem in problems] == ["method.steps.mine.factor"]


def test_a_name_is_given_once(registered: type[Step]) -> None:
    with refuses(ValueError, key="step", value="test_only"):

        @register_step("test_only")
        class Second(Step):
            """Does nothing either."""

            def run(self, work: Workspace) -> None:
                return None

    assert STEPS["test_only"] is registered


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ({"a": CALIBRATE, "b": {"do": "half"}, "c": LEARN}, ["b"]),
        ({"a": {"do": "gptq"}, "b": {"do": "allocate"}, "c": CALIBRATE}, ["b", "b"]),
        ({"a": CALIBRATE, "b": {"do": "allocate"}, "c": {"do": "allocate"}}, ["c"]),
        ({"a": CALIBRATE, "b": {"do": "equalize"}}, ["b", "b"]),
        ({"a": {"do": "equalize"}, "b": CALIBRATE, "c": {"do": "allocate"}, "d": LEARN, "e": {"do": "half"}}, []),
    ],
)
def test_steps_say_where_in_a_recipe_they_cannot_stand(steps: dict[str, Any], wrong: list[str]) -> None:
    problems = recipe_checks.problems(config(steps))
    assert [problem.key for problem in problems] == [f"method.steps.{name}" for name in wrong]
