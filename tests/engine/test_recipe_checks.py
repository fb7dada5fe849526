"""Every mistake in a recipe is found before anything starts, and named with its valid values."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.recipes import CALIBRATE, GOOD, KINDS, recipe_problems
from tests.errors import is_about, problem_fields
from vitq.config import RunConfig


def test_a_good_recipe_has_no_problems() -> None:
    assert recipe_problems() == []


@pytest.mark.parametrize(("iterations", "refused"), [(None, True), (5, False)])
def test_rates_that_follow_nothing_are_refused(iterations: int | None, refused: bool) -> None:
    steps = {"ranges": {"do": "calibrate"}, "learn": {"do": "reconstruct"}}
    problems = recipe_problems({"kinds": {"default": {}}, "steps": steps, "rates": "sqrt", "iterations": iterations})
    assert [is_about(problem, "method.rates", "sqrt", ["paper"]) for problem in problems] == [True] * refused


def test_suited_rates_of_a_recipe_that_has_no_rule_are_refused() -> None:
    recipe = {"kinds": {"default": {}}, "steps": {"learn": {"do": "reconstruct"}}, "rates": "suited", "iterations": 5}
    assert any(is_about(one, "method.rates", "suited", ["paper", "sqrt", "linear"]) for one in recipe_problems(recipe))
    assert not any("method.rates" in problem_fields(one) for one in recipe_problems(recipe | {"suited_rates": "sqrt"}))


@pytest.mark.parametrize("more", [{"keep_model": True}, {"tracker": {"log_model": True}}])
def test_a_model_that_cannot_be_kept_is_refused_before_it_is_computed(more: dict[str, Any]) -> None:
    steps = {"all": {"do": "calibrate"}, "predict": {"do": "predict_scales"}}
    (problem,) = recipe_problems({"kinds": {"default": {}}, "steps": steps}, **more)
    assert is_about(problem, "keep_model" if "keep_model" in more else "tracker.log_model", True, [False])


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "CUDA", ""])
def test_devices_are_checked_by_name(name: str) -> None:
    _, (problem,) = RunConfig.parse(GOOD | {"device": name})
    assert is_about(problem, "device", name, ["auto", "cpu", "cuda", "cuda:N"])
    assert RunConfig.parse(GOOD | {"device": "cuda:1"})[1] == []


@pytest.mark.parametrize(
    ("method", "key", "value", "valid"),
    [
        ({"kinds": {"wieght": {}}, "steps": CALIBRATE}, "method.kinds.wieght", "wieght", ["weight", "attn_out"]),
        (
            {"kinds": {"probs": {"quantizer": "lgo2"}}, "steps": CALIBRATE},
            "method.kinds.probs.quantizer",
            "lgo2",
            ["log2"],
        ),
        (
            {"kinds": {"default": {"options": {"percentile": 1}}}, "steps": CALIBRATE},
            "method.kinds.default.options.percentile",
            "percentile",
            ["percentiles"],
        ),
        (
            {"kinds": {"weight": {"granularity": "head"}}, "steps": CALIBRATE},
            "method.kinds.weight.granularity",
            "head",
            ["tensor", "channel", "group:N"],
        ),
        (
            {"kinds": {"weight": {"granularity": "token"}}, "steps": CALIBRATE},
            "method.kinds.weight.granularity",
            "token",
            ["tensor", "channel", "group:N"],
        ),
        (
            {"kinds": {"default": {"granularity": "token"}}, "steps": CALIBRATE},
            "method.kinds.default.granularity",
            "token",
            ["channel"],
        ),
        (
            {"kinds": {"default": {"granularity": "head"}, "weight": {}}, "steps": CALIBRATE},
            "method.kinds.default.granularity",
            "head",
            ["channel"],
        ),
        (
            {"kinds": {"default": {"range": "percentile", "options": {"percentiles": [99.9]}}}, "steps": CALIBRATE},
            "method.kinds.default.options.percentiles",
            99.9,
            [],
        ),
        (
            {"kinds": {"default": {"range": "mse", "options": {"candidates": 0}}}, "steps": CALIBRATE},
            "method.kinds.default.options.candidates",
            0,
            [],
        ),
        *(
            (
                {"kinds": {"default": {}, "probs": {"quantizer": name, "symmetric": True}}, "steps": CALIBRATE},
                "method.kinds.probs.symmetric",
                True,
                [False],
            )
            for name in ("log2", "sulq")
        ),
        (
            {"kinds": {"default": {}, "post_norm": {"quantizer": "ptf", "granularity": "channel", "range": "mse"}}},
            "method.kinds.post_norm.range",
            "mse",
            ["minmax"],
        ),
        *(
            ({"kinds": {"default": {}} | kinds, "steps": CALIBRATE}, f"method.kinds.{kind}.quantizer", name, [])
            for kind, name, kinds in (
                ("weight", "log2", {"weight": {"quantizer": "log2"}}),
                ("default", "twin_softmax", {"default": {"quantizer": "twin_softmax"}, "weight": {}}),
                ("query", "int_scores", {"query": {"quantizer": "int_scores"}}),
                ("probs", "dual_uniform", {"probs": {"quantizer": "dual_uniform"}}),
                ("value", "adalog", {"value": {"quantizer": "adalog"}}),
            )
        ),
        ({"kinds": KINDS, "steps": {"a": {"do": "calibrat"}}}, "method.steps.a.do", "calibrat", ["calibrate"]),
        ({"kinds": KINDS, "steps": {"a": {}}}, "method.steps.a.do", None, ["calibrate", "reparameterize"]),
        (
            {"kinds": KINDS, "steps": {"a": {"do": "calibrate", "sits": "all"}}},
            "method.steps.a.sits",
            "sits",
            ["do", "sites"],
        ),
        (
            {"kinds": KINDS, "steps": {"a": {"do": "calibrate", "sites": "al"}}},
            "method.steps.a.sites",
            "al",
            ["all", "weights"],
        ),
        (
            {"kinds": KINDS, "steps": {"a": {"do": "calibrate", "kinds": ["x"]}}},
            "method.steps.a.kinds",
            "x",
            ["post_norm"],
        ),
        ({"kinds": KINDS, "steps": {"a": {"do": "calibrate", "images": 0}}}, "method.steps.a.images", 0, []),
        (
            {"kinds": KINDS, "steps": {"a": {"do": "calibrate", "sites": "weights", "images": 8}}},
            "method.steps.a.sites",
            "weights",
            [],
        ),
        ({"kinds": KINDS}, "method.steps", None, ["calibrate"]),
        ({"kinds": KINDS, "steps": {"a": {"do": "calibrate", "sites": "activations"}}}, "method.steps", "weight", []),
        (
            {"kinds": KINDS, "steps": {"w": {"do": "gptq"}, "a": {"do": "calibrate", "kinds": ["post_norm"]}}},
            "method.steps",
            "post_gelu",
            [],
        ),
        (
            {"kinds": {"weight": {}}, "steps": {"a": {"do": "reparameterize"}}},
            "method.steps.a",
            None,
            ["uniform"],
        ),
        (
            {
                "kinds": {"default": {}, "post_norm": {"granularity": "group:8"}},
                "steps": {"a": {"do": "calibrate", "sites": "activations"}, "fold": {"do": "reparameterize"}},
            },
            "method.steps.fold",
            "group:8",
            ["channel"],
        ),
        (
            {"kinds": KINDS, "steps": {"all": {"do": "calibrate"}, "fold": {"do": "reparameterize"}}},
            "method.steps.fold",
            "all",
            [],
        ),
        *(
            (
                {
                    "kinds": KINDS,
                    "steps": {
                        "a": CALIBRATE["all"] | {"sites": "activations"},
                        "w": {"do": do},
                        "fold": {"do": fold, **options},
                    },
                },
                "method.steps.fold",
                "w",
                [],
            )
            for do in ("gptq", "erq")
            for fold, options in (("reparameterize", {}), ("equalize", {"rule": "sq_b"}))
        ),
        (
            {"kinds": KINDS, "steps": {"all": {"do": "calibrate"}, "../x": {"do": "bias_correction"}}},
            "method.steps.../x",
            "../x",
            [],
        ),
        (
            {"kinds": KINDS, "steps": {"all": {"do": "calibrate"}, "a 1/2": {"do": "bias_correction"}}},
            "method.steps.a 1/2",
            "a 1/2",
            [],
        ),
        (
            {"kinds": KINDS, "steps": {"all": {"do": "calibrate"}, "r": {"do": "reconstruct", "rounding_weight": -5}}},
            "method.steps.r.rounding_weight",
            -5.0,
            [],
        ),
        (
            {"kinds": KINDS, "steps": {"all": {"do": "calibrate"}, "p": {"do": "predict_scales", "lr": -1}}},
            "method.steps.p.lr",
            -1.0,
            [],
        ),
        (
            {
                "kinds": KINDS,
                "steps": {"c": {"do": "calibrate"}, "a": {"do": "allocate"}, "b": {"do": "allocate", "mean_bits": 5}},
            },
            "method.steps.b",
            "allocate",
            [],
        ),
    ],
)
def test_each_mistake_is_named(method: dict[str, Any], key: str, value: Any, valid: list[str]) -> None:
    problems = recipe_problems(method)
    assert any(is_about(problem, key, value, valid) for problem in problems), [*map(problem_fields, problems)]


def test_an_exception_for_an_unknown_kind_is_named() -> None:
    (problem,) = recipe_problems(bits={"kinds": {"prob": 4}})
    assert is_about(problem, "bits.kinds.prob", "prob", ["probs"])


def test_a_shift_lets_adalog_serve_what_lies_below_zero() -> None:
    shifted = {"quantizer": "adalog", "options": {"shift": 4.0}}
    assert recipe_problems({"kinds": {"default": {}, "value": shifted}, "steps": CALIBRATE}) == []


def test_a_quantizer_may_be_the_default_of_what_it_can_serve() -> None:
    kinds: dict[str, Any] = {name: {} for name in ("weight", "post_norm", "query", "key", "value", "attn_out", "head")}
    assert recipe_problems({"kinds": {**kinds, "default": {"quantizer": "log2"}}, "steps": CALIBRATE}) == []


def test_a_default_answers_for_quantized_kinds_only() -> None:
    kinds = {"default": {"granularity": "token"}, "head": {}}
    assert recipe_problems({"kinds": kinds, "steps": CALIBRATE}, bits={"weight": "fp"}) == []
    assert recipe_problems({"kinds": kinds | {"weight": {}}, "steps": CALIBRATE}) == []
    assert len(recipe_problems({"kinds": kinds | {"weight": {}}, "steps": CALIBRATE}, bits={"image": 8})) == 1


def test_a_step_that_is_switched_off_is_not_checked_against_the_config() -> None:
    steps = {"all": {"do": "calibrate"}, "fold": {"do": "reparameterize", "enabled": False}}
    assert recipe_problems({"kinds": KINDS, "steps": steps}) == []


def test_what_is_left_unquantized_needs_no_step() -> None:
    steps = {"a": {"do": "calibrate", "sites": "activations"}}
    assert recipe_problems({"kinds": KINDS, "steps": steps}, bits={"weight": "fp"}) == []
    assert recipe_problems({"kinds": KINDS, "steps": steps}, bits={"kinds": {"weight": "fp"}}) == []
    steps = {"w": {"do": "gptq"}, "a": {"do": "calibrate", "sites": "activations"}}
    assert recipe_problems({"kinds": KINDS, "steps": steps}) == []


def test_a_step_that_is_switched_off_is_an_ablation_of_what_it_fits() -> None:
    steps = {"a": {"do": "calibrate", "sites": "activations"}, "w": {"do": "calibrate", "sites": "weights"}}
    assert recipe_problems({"kinds": KINDS, "steps": steps | {"w": steps["w"] | {"enabled": False}}}) == []
