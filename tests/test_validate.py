"""Every mistake in a recipe is found before anything starts, and named with its valid values."""

from __future__ import annotations

import re
from typing import Any

import pytest

from vitq.config import RunConfig
from vitq.engine import recipe_checks

GOOD: dict[str, Any] = {
    "model": {"name": "m"},
    "data": {"name": "d"},
    "method": {"name": "x", "kinds": {"default": {}}, "steps": {"all": {"do": "calibrate"}}},
}


def found(method: dict[str, Any] | None = None, **more: Any) -> list[str]:
    config, problems = RunConfig.parse(GOOD | more | ({"method": {"name": "x", **method}} if method else {}))
    assert config is not None, problems
    return recipe_checks.problems(config)


def test_a_good_recipe_has_no_problems() -> None:
    assert found() == []


@pytest.mark.parametrize("more", [{"keep_model": True}, {"tracker": {"log_model": True}}])
def test_a_model_that_cannot_be_kept_is_refused_before_it_is_computed(more: dict[str, Any]) -> None:
    steps = {"all": {"do": "calibrate"}, "predict": {"do": "predict_scales"}}
    (problem,) = found({"kinds": {"default": {}}, "steps": steps}, **more)
    assert re.match(r"(keep_model|tracker\.log_model)=true: a packed checkpoint cannot hold", problem)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "CUDA", ""])
def test_devices_are_checked_by_name(name: str) -> None:
    _, problems = RunConfig.parse(GOOD | {"device": name})
    assert problems == [f"device={name!r}: not a device; valid: auto, cpu, cuda, cuda:N"]
    assert RunConfig.parse(GOOD | {"device": "cuda:1"})[1] == []


KINDS: dict[str, Any] = {"default": {}}
CALIBRATE = {"all": {"do": "calibrate"}}


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        (
            {"kinds": {"wieght": {}}, "steps": CALIBRATE},
            {},
            "unknown kind 'wieght'; valid: attn_out, .*Did you mean 'weight'",
        ),
        ({"kinds": {"probs": {"quantizer": "lgo2"}}, "steps": CALIBRATE}, {}, "unknown quantizer 'lgo2'"),
        (
            {"kinds": {"default": {"options": {"percentile": 1}}}, "steps": CALIBRATE},
            {},
            "unknown option .*'percentile'",
        ),
        (
            {"kinds": {"weight": {"granularity": "head"}}, "steps": CALIBRATE},
            {},
            "only query, key, probs, value, scores have heads, not weight; valid here: tensor, channel, group:N",
        ),
        (
            {"kinds": {"weight": {"granularity": "token"}}, "steps": CALIBRATE},
            {},
            "granularity=token: weight tensors have no tokens",
        ),
        (
            {"kinds": {"default": {"granularity": "token"}}, "steps": CALIBRATE},
            {},
            "kinds.default.granularity=token: weight, head tensors have no tokens",
        ),
        (
            {"kinds": {"default": {"granularity": "head"}, "weight": {}}, "steps": CALIBRATE},
            {},
            "kinds.default.granularity=head: .* have heads, not post_norm, post_gelu, attn_out, head, other;",
        ),
        (
            {"kinds": {"default": {"range": "percentile", "options": {"percentiles": [99.9]}}}, "steps": CALIBRATE},
            {},
            r"kinds.default: percentile 99.9 is outside \(0.5, 1\]",
        ),
        (
            {"kinds": {"default": {"range": "mse", "options": {"candidates": 0}}}, "steps": CALIBRATE},
            {},
            "kinds.default: candidates=0",
        ),
        (
            {"kinds": {"default": {}, "probs": {"quantizer": "log2", "symmetric": True}}, "steps": CALIBRATE},
            {},
            "kinds.probs: symmetric=true: Log2Quantizer has no negative codes",
        ),
        (
            {"kinds": {"default": {}, "probs": {"quantizer": "sulq", "symmetric": True}}, "steps": CALIBRATE},
            {},
            "kinds.probs: symmetric=true: SULQ has no negative codes",
        ),
        (
            {"kinds": {"default": {}, "post_norm": {"quantizer": "ptf", "granularity": "channel", "range": "mse"}}},
            {},
            "kinds.post_norm: range=mse: power-of-two factors divide the whole range, minmax",
        ),
        (
            {"kinds": {"default": {}, "weight": {"quantizer": "log2"}}, "steps": CALIBRATE},
            {},
            r"kinds.weight.quantizer=log2: serves probs, post_gelu, other, not weight; .* e.g. uniform",
        ),
        (
            {"kinds": {"default": {"quantizer": "twin_softmax"}, "weight": {}}, "steps": CALIBRATE},
            {},
            "kinds.default.quantizer=twin_softmax: serves .*, not post_norm, query, key, value, attn_out, head",
        ),
        (
            {"kinds": {"default": {}, "query": {"quantizer": "int_scores"}}, "steps": CALIBRATE},
            {},
            "kinds.query.quantizer=int_scores: serves scores, not query",
        ),
        (
            {"kinds": {"default": {}, "probs": {"quantizer": "dual_uniform"}}, "steps": CALIBRATE},
            {},
            "kinds.probs.quantizer=dual_uniform: serves weight, not probs",
        ),
        (
            {"kinds": {"default": {}, "value": {"quantizer": "adalog"}}, "steps": CALIBRATE},
            {},
            "kinds.value.quantizer=adalog: serves probs, post_gelu, other, not value",
        ),
        ({"kinds": KINDS, "steps": {"a": {"do": "calibrat"}}}, {}, "unknown step 'calibrat'.*Did you mean 'calibrate'"),
        ({"kinds": KINDS, "steps": {"a": {}}}, {}, r"method.steps.a.do: missing; valid: .*calibrate, .*reparameterize"),
        (
            {"kinds": KINDS, "steps": {"a": {"do": "calibrate", "sits": "all"}}},
            {},
            r"steps.a.sits: unknown option 'sits'; valid: do, .*Did you mean 'sites'",
        ),
        ({"kinds": KINDS, "steps": {"a": {"do": "calibrate", "sites": "al"}}}, {}, r"steps.a.sites='al': .*'weights'"),
        ({"kinds": KINDS, "steps": {"a": {"do": "calibrate", "kinds": ["x"]}}}, {}, "unknown kind 'x'"),
        (
            {"kinds": KINDS, "steps": {"a": {"do": "calibrate", "images": 0}}},
            {},
            "images=0; valid: 1 or more",
        ),
        (
            {"kinds": KINDS, "steps": {"a": {"do": "calibrate", "sites": "weights", "images": 8}}},
            {},
            "steps.a: images and input say what activations see",
        ),
        ({"kinds": KINDS}, {}, "no step fits them"),
        (
            {"kinds": KINDS, "steps": {"a": {"do": "calibrate", "sites": "activations"}}},
            {},
            r"no step fits the quantizers of weight; .* bits.kinds.weight=fp",
        ),
        (
            {"kinds": KINDS, "steps": {"w": {"do": "gptq"}, "a": {"do": "calibrate", "kinds": ["post_norm"]}}},
            {},
            "no step fits the quantizers of post_gelu",
        ),
        (
            {"kinds": {"weight": {}}, "steps": {"a": {"do": "reparameterize"}}},
            {},
            "needs a uniform quantizer for kind post_norm",
        ),
        (
            {
                "kinds": {"default": {}, "post_norm": {"granularity": "group:8"}},
                "steps": {"a": {"do": "calibrate", "sites": "activations"}, "fold": {"do": "reparameterize"}},
            },
            {},
            "post_norm.granularity=group:8: reparameterize folds one scale for each channel; valid here: channel",
        ),
        (
            {"kinds": KINDS, "steps": {"all": {"do": "calibrate"}, "fold": {"do": "reparameterize"}}},
            {},
            "fold: changes weights after 'all' has fitted their quantizers; move 'all' behind it",
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
                {},
                "fold: changes weights after 'w' has fitted their quantizers; move 'w' behind it",
            )
            for do in ("gptq", "erq")
            for fold, options in (("reparameterize", {}), ("equalize", {"rule": "sq_b"}))
        ),
        (
            {"kinds": KINDS, "steps": {"all": {"do": "calibrate"}, "../x": {"do": "bias_correction"}}},
            {},
            r"method.steps.../x: not a name for a step, whose finished segments are files of that name; letters, ",
        ),
        (
            {"kinds": KINDS, "steps": {"all": {"do": "calibrate"}, "a 1/2": {"do": "bias_correction"}}},
            {},
            "method.steps.a 1/2: not a name for a step",
        ),
        (
            {"kinds": KINDS, "steps": {"all": {"do": "calibrate"}, "r": {"do": "reconstruct", "rounding_weight": -5}}},
            {},
            "rounding_weight=-5.0; zero or more",
        ),
        (
            {"kinds": KINDS, "steps": {"all": {"do": "calibrate"}, "p": {"do": "predict_scales", "lr": -1}}},
            {},
            "steps.p: lr=-1.0; a learning rate is not negative",
        ),
        (
            {
                "kinds": KINDS,
                "steps": {"c": {"do": "calibrate"}, "a": {"do": "allocate"}, "b": {"do": "allocate", "mean_bits": 5}},
            },
            {"bits": {"weight": 4, "activation": 4}},
            "steps.b: a recipe allocates once",
        ),
        (None, {"bits": {"kinds": {"prob": 4}}}, "bits.kinds.prob: unknown kind 'prob'"),
    ],
)
def test_each_mistake_is_named(method: dict[str, Any] | None, more: dict[str, Any], message: str) -> None:
    problems = found(method, **more)
    assert any(re.search(message, line) for line in problems), problems


def test_a_shift_lets_adalog_serve_what_lies_below_zero() -> None:
    shifted = {"quantizer": "adalog", "options": {"shift": 4.0}}
    assert found({"kinds": {"default": {}, "value": shifted}, "steps": CALIBRATE}) == []


def test_a_quantizer_may_be_the_default_of_what_it_can_serve() -> None:
    kinds: dict[str, Any] = {name: {} for name in ("weight", "post_norm", "query", "key", "value", "attn_out", "head")}
    assert found({"kinds": {**kinds, "default": {"quantizer": "log2"}}, "steps": CALIBRATE}) == []


def test_a_default_answers_for_quantized_kinds_only() -> None:
    kinds = {"default": {"granularity": "token"}, "head": {}}
    assert found({"kinds": kinds, "steps": CALIBRATE}, bits={"weight": "fp"}) == []
    assert found({"kinds": kinds | {"weight": {}}, "steps": CALIBRATE}) == []
    assert len(found({"kinds": kinds | {"weight": {}}, "steps": CALIBRATE}, bits={"image": 8})) == 1


def test_a_step_that_is_switched_off_is_not_checked_against_the_config() -> None:
    steps = {"all": {"do": "calibrate"}, "fold": {"do": "reparameterize", "enabled": False}}
    assert found({"kinds": KINDS, "steps": steps}) == []


def test_what_is_left_unquantized_needs_no_step() -> None:
    steps = {"a": {"do": "calibrate", "sites": "activations"}}
    assert found({"kinds": KINDS, "steps": steps}, bits={"weight": "fp"}) == []
    assert found({"kinds": KINDS, "steps": steps}, bits={"kinds": {"weight": "fp"}}) == []
    steps = {"w": {"do": "gptq"}, "a": {"do": "calibrate", "sites": "activations"}}
    assert found({"kinds": KINDS, "steps": steps}) == []


def test_a_step_that_is_switched_off_is_an_ablation_of_what_it_fits() -> None:
    steps = {"a": {"do": "calibrate", "sites": "activations"}, "w": {"do": "calibrate", "sites": "weights"}}
    assert found({"kinds": KINDS, "steps": steps | {"w": steps["w"] | {"enabled": False}}}) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_cannot_hold_are_refused_wherever_they_stand(value: float) -> None:
    """Stored as null they would be another config's: no budget at all, under that config's signature."""
    steps = {"all": {"do": "calibrate"}, "a": {"do": "allocate", "size_mb": value, "mean_bits": [4, value]}}
    kinds = {"default": {"options": {"percentiles": [0.99, value]}}}
    raw = GOOD | {
        "method": {"name": "x", "kinds": kinds, "steps": steps},
        "model": {"name": "m", "mean": [value, 0, 0]},
    }
    config, problems = RunConfig.parse(raw)
    assert config is None
    places = [
        "method.kinds.default.options.percentiles.1",
        "method.steps.a.mean_bits.1",
        "method.steps.a.size_mb",
        "model.mean.0",
    ]
    assert sorted(problems) == [f"{place}={value}: a finite number is needed" for place in places]
