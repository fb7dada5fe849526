"""Recipes of one step, and what is wrong with others."""

from __future__ import annotations

from typing import Any

from vitq.config import RunConfig
from vitq.engine import recipe_checks
from vitq.errors import Problem

KINDS: dict[str, Any] = {"default": {}}
CALIBRATE = {"all": {"do": "calibrate"}}
GOOD: dict[str, Any] = {
    "model": {"name": "m"},
    "data": {"name": "d"},
    "method": {"name": "x", "kinds": KINDS, "steps": CALIBRATE},
}


def recipe_problems(method: dict[str, Any] | None = None, **more: Any) -> list[Problem]:
    """Of a method with these keys, else of GOOD's; `more`: other sections of the config."""
    config, problems = RunConfig.parse(GOOD | more | ({"method": {"name": "x", **method}} if method else {}))
    assert config is not None, problems
    return recipe_checks.problems(config)
