"""The ranges that recipes declare: of options that exist, around the recipe's own values, valid at both ends."""

from __future__ import annotations

import pytest
import yaml
from pydantic import ValidationError

from tests.errors import is_about
from tests.tuning.conftest import TunedEngine, tuning
from vitq.config.problems import config_problems
from vitq.config.search_path import ConfigPath
from vitq.config.tuning import OptionRange
from vitq.engine import recipe_checks
from vitq.tuning.space import changed, ends


def declared() -> list[str]:
    """Recipes with ranges of their own or of the recipe below them; read and not composed, which takes seconds."""
    recipes = {name: yaml.safe_load(path.read_text()) for name, path in ConfigPath.of().files("method").items()}

    def tuned(name: str) -> bool:
        return "tune" in recipes[name] or ("base" in recipes[name] and tuned(recipes[name]["base"]))

    return [name for name in recipes if tuned(name)]


@pytest.mark.parametrize("method", declared())
def test_ranges_of_shipped_recipes(tuned: TunedEngine, method: str) -> None:
    one = tuning(method=method)
    ranges = one.config.method.tune
    assert one.own.keys() == ranges.keys() != set()
    for options in ends(ranges):
        plan = one.trials.plan(changed(one.own, options), "")
        assert recipe_checks.problems(plan.runs[0].config) == []


def test_most_methods_that_learn_or_regress_can_be_tuned() -> None:
    assert {"ias_vit", "qdrop", "aocq", "erq", "rols"} <= {*declared()}


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (OptionRange(low=1e-5, high=1e-2, log=True), (1e-5, 1e-2, 1e-3), (0.02, "x", True, None)),
        (OptionRange(low=1, high=4), (1, 4), (0, 5)),
        (OptionRange(choices=([0.9, 0.99], None, True, "mse")), ([0.9, 0.99], None, True, "mse"), ([0.9], False, 1)),
    ],
)
def test_what_a_range_holds(allowed: OptionRange, inside: tuple[object, ...], outside: tuple[object, ...]) -> None:
    assert all(allowed.holds(value) for value in inside)
    assert not any(allowed.holds(value) for value in outside)


@pytest.mark.parametrize(
    ("wrong", "key", "value"),
    [
        ({}, "low", None),
        ({"low": 1}, "low", 1),
        ({"low": 2, "high": 1}, "low", 2),
        ({"low": 0, "high": 1, "log": True}, "log", True),
        ({"choices": ()}, "choices", ()),
        ({"low": 1, "choices": (1,)}, "choices", (1,)),
    ],
)
def test_ranges_that_are_none(wrong: dict[str, object], key: str, value: object) -> None:
    with pytest.raises(ValidationError) as error:
        OptionRange(**wrong)  # type: ignore[arg-type]
    (problem,) = config_problems(error.value, OptionRange)
    assert is_about(problem, key, value)
