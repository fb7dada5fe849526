"""Every mistake in a recipe is found before anything starts, and named with its valid values."""

from __future__ import annotations

from typing import Any

import pytest

from vitq import validate
from vitq.config import RunConfig

GOOD: dict[str, Any] = {
    "model": {"name": "m"},
    "data": {"name": "d"},
    "method": {"name": "x", "kinds": {"default": {}}, "steps": {"all": {"do": "calibrate"}}},
}


def found(method: dict[str, Any] | None = None, **more: Any) -> list[str]:
    config, problems = RunConfig.parse(GOOD | more | ({"method": {"name": "x", **method}} if method else {}))
    assert config is not None, problems
    return validate.problems(config)


def test_a_good_recipe_has_no_problems() -> None:
    assert found() == []


KINDS = {"default": {}}
CALIBRATE = {"all": {"do": "calibrate"}}


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ({"kinds": {"wieght": {}}, "steps": CALIBRATE}, {}, "unknown kind 'wieght'; valid: attn_out, .*Did you mean 'weight'"),
        ({"kinds": {"probs": {"quantizer": "lgo2"}}, "steps": CALIBRATE}, {}, "unknown quantizer 'lgo2'"),
        ({"kinds": {"default": {"options": {"percentile": 1}}}, "steps": CALIBRATE}, {}, "unknown option .*'percentile'"),
        ({"kinds": {"weight": {"granularity": "head"}}, "steps": CALIBRATE}, {}, "only query, key, probs and value have heads"),
        ({"kinds": {"weight": {"granularity": "token"}}, "steps": CALIBRATE}, {}, "a weight tensor has no tokens"),
        ({"kinds": KINDS, "steps": {"a": {"do": "calibrat"}}}, {}, "unknown step 'calibrat'.*Did you mean 'calibrate'"),
        ({"kinds": KINDS, "steps": {"a": {}}}, {}, r"method.steps.a.do: missing; valid: calibrate, reparameterize"),
        ({"kinds": KINDS, "steps": {"a": {"do": "calibrate", "sits": "all"}}}, {}, r"steps.a.sits: unknown option"),
        ({"kinds": KINDS, "steps": {"a": {"do": "calibrate", "sites": "al"}}}, {}, r"steps.a.sites: .*'weights'"),
        ({"kinds": KINDS, "steps": {"a": {"do": "calibrate", "kinds": ["x"]}}}, {}, "unknown kind 'x'"),
        ({"kinds": KINDS, "steps": {"a": {"do": "calibrate", "images": 99}}}, {}, "images=99; valid: 1 to calib.size=32"),
        ({"kinds": KINDS}, {}, "no step fits them"),
        ({"kinds": {"weight": {}}, "steps": {"a": {"do": "reparameterize"}}}, {}, "needs a uniform quantizer for kind post_norm"),
        (
            {"kinds": KINDS, "steps": {"all": {"do": "calibrate"}, "fold": {"do": "reparameterize"}}},
            {},
            "fold: changes weights after 'all' has calibrated them; move 'all' behind it",
        ),
        (None, {"bits": {"kinds": {"prob": 4}}}, "bits.kinds.prob: unknown kind 'prob'"),
    ],
)
def test_each_mistake_is_named(method: dict[str, Any] | None, more: dict[str, Any], message: str) -> None:
    problems = found(method, **more)
    assert problems
    import re

    assert any(re.search(message, line) for line in problems), problems


def test_a_step_that_is_switched_off_is_not_checked_against_the_config() -> None:
    steps = {"all": {"do": "calibrate"}, "fold": {"do": "reparameterize", "enabled": False}}
    assert found({"kinds": KINDS, "steps": steps}) == []
