"""Equalize: lossless on ViT and Swin, ratios as the formulas say. How a strength is chosen: test_strength.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.errors import is_about, refuses
from tests.tiny import images, linear, part, run, seen, tiny, uniform
from vitq.config import RunConfig
from vitq.engine import recipe_checks
from vitq.quant import site_table
from vitq.steps import Workspace

Make = Callable[..., Workspace]
METHOD = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}
VARIANTS: dict[str, dict[str, Any]] = {
    "vit": {"family": "vit"},
    "vit without qkv bias": {"family": "vit", "qkv_bias": False},
    "vit with norms before proj and fc2": {"family": "vit", "scale_attn_norm": True, "scale_mlp_norm": True},
    "swin": {"family": "swin"},
    "swin with padded windows": {"family": "swin", "window_size": 3},
}
STEPS: dict[str, dict[str, Any]] = {
    "sq_b": {"rule": "sq_b", "strength": 0.5},
    "sq_b searched": {"rule": "sq_b"},
    "smoothquant": {"rule": "sq_b", "strength": 0.7, "shift": False},
    "aocq": {"rule": "aocq", "bare": ["attn_out", "post_gelu"]},
    "aocq powers of two": {"rule": "aocq", "strength": 1.0, "power_of_two": True, "bare": ["attn_out", "post_gelu"]},
    "aocq bare only": {"rule": "aocq", "strength": 0.6, "norms": False, "bare": ["post_gelu"]},
}


def build(variant: str) -> torch.nn.Module:
    settings = dict(VARIANTS[variant])
    return tiny(str(settings.pop("family")), **settings)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", STEPS)
@torch.no_grad()
def test_full_precision_output_is_unchanged(workspace: Make, variant: str, step: str) -> None:
    work = workspace(build(variant), METHOD, weight=4, activation=4)
    x = images(work)
    before, weights = work.model(x), {n: p.clone() for n, p in work.model.model.named_parameters()}
    if step == "aocq bare only" and "norms before" in variant:
        with refuses(ValueError, key="inputs", value={"norms": False, "bare": ("post_gelu",)}):
            run(work, {"do": "equalize", **STEPS[step]})
        return
    run(work, {"do": "equalize", **STEPS[step]})
    assert (work.model(x) - before).abs().max() < 1e-4
    changed = [n for n, p in work.model.model.named_parameters() if n not in weights or not torch.equal(weights[n], p)]
    assert any(name.endswith("fc2.weight" if step == "aocq bare only" else "fc1.weight") for name in changed)


@torch.no_grad()
def test_sq_b_is_the_papers_formula(workspace: Make) -> None:
    """b = (max + min)/2, s = max|X − b|^α / max|W|^(1−α); γ/s, (β − b)/s, W·diag(s), bias + W·b, all in float64."""
    model = tiny("vit")
    work = workspace(model, METHOD, weight=4, activation=4)
    norm, layer = part(model, "blocks.1.norm2"), linear(work, "blocks.1.mlp.fc1")
    x = seen(work, "blocks.1.mlp.fc1")
    gamma, beta, weight, bias = (t.double() for t in (norm.weight, norm.bias, layer.weight, layer.bias))
    middle = (x.amax(0) + x.amin(0)) / 2
    ratio = (x - middle).abs().amax(0) ** 0.3 / weight.abs().amax(0) ** 0.7
    run(work, {"do": "equalize", "rule": "sq_b", "strength": 0.3})
    expected = (gamma / ratio, (beta - middle) / ratio, weight * ratio, bias + weight @ middle)
    for found, wanted in zip((norm.weight, norm.bias, layer.weight, layer.bias), expected, strict=True):
        assert torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-5)
    moved = seen(work, "blocks.1.mlp.fc1")
    assert torch.allclose(moved.amax(0), -moved.amin(0), rtol=1e-4, atol=1e-5), "channels are centred"
    assert layer.equalized == 0.3


@torch.no_grad()
def test_aocq_is_the_readings_formula(workspace: Make) -> None:
    work = workspace(tiny("swin"), METHOD, weight=4, activation=4)
    name = "layers.0.blocks.1.mlp.fc1"
    x, weight = seen(work, name), linear(work, name).weight.double()
    extent = x.amax(0) - x.amin(0)
    run(work, {"do": "equalize", "rule": "aocq", "strength": 0.4, "shift": False})
    assert torch.allclose(linear(work, name).weight.double(), weight * (extent / extent.mean()) ** 0.4, rtol=1e-4)


@torch.no_grad()
def test_beta_one_gives_all_channels_one_range(workspace: Make) -> None:
    work = workspace(tiny("vit"), METHOD, weight=4, activation=4)
    run(work, {"do": "equalize", "rule": "aocq", "strength": 1.0})
    x = seen(work, "blocks.0.attn.qkv")
    extent = x.amax(0) - x.amin(0)
    assert torch.allclose(extent, extent.mean().expand_as(extent), rtol=1e-4)


@torch.no_grad()
def test_a_bare_input_is_multiplied_by_powers_of_two_at_run_time(workspace: Make) -> None:
    model = tiny("vit")
    work = workspace(model, METHOD, weight=4, activation=4)
    name = "blocks.0.mlp.fc2"
    before = site_table.quantized_bytes(work.model, 0)
    x, weight = seen(work, name), linear(work, name).weight.clone()
    extent = x.amax(0) - x.amin(0)
    run(work, {"do": "equalize", "rule": "aocq", "strength": 1.0, "bare": ["post_gelu"]})
    layer = linear(work, name)
    assert layer.balance is not None
    assert torch.equal(torch.frexp(layer.balance).mantissa, torch.full_like(layer.balance, 0.5))
    assert torch.equal(layer.balance, torch.exp2(-torch.round(torch.log2(extent / extent.mean()))).float())
    assert torch.equal(layer.weight * layer.balance, weight), "powers of two are exact"
    assert linear(work, "blocks.0.attn.proj").balance is None
    assert site_table.quantized_bytes(work.model, 0) - before == 2 * weight.shape[1], "one byte for each exponent"
    # What is calibrated and quantized is the multiplied input.
    run(work, {"do": "calibrate", "sites": "activations"})
    multiplied = (x * layer.balance).float()
    expected = (multiplied.max().clamp(min=0) - multiplied.min().clamp(max=0)) / 15
    assert float(uniform(work, f"{name}.input").scale[0]) == pytest.approx(float(expected), rel=1e-5)


@torch.no_grad()
def test_a_constant_channel_is_ordinary_input(workspace: Make) -> None:
    for step in STEPS.values():
        model = tiny("vit")
        norm = part(model, "blocks.0.norm1")
        norm.weight.data[3], norm.bias.data[3] = 0, 1.7
        part(model, "blocks.1.norm2").weight.data.zero_()
        part(model, "blocks.0.mlp.fc1").weight.data[:, 5] = 0
        work = workspace(model, METHOD, weight=4, activation=4)
        before = work.model(images(work))
        run(work, {"do": "equalize", **step})
        assert (work.model(images(work)) - before).abs().max() < 1e-4
        assert all(torch.isfinite(p).all() for p in model.parameters())


@torch.no_grad()
def test_no_shift_is_folded_across_padding(workspace: Make) -> None:
    work = workspace(build("swin with padded windows"), METHOD, weight=4, activation=4)
    link = next(link for link in work.model.structure.links if link.padded)
    norm = part(work.model.model, link.norm)
    before = norm.bias / norm.weight
    run(work, {"do": "equalize", "rule": "sq_b", "strength": 0.5})
    assert torch.allclose(norm.bias / norm.weight, before, rtol=1e-4), "scaled alone"


@torch.no_grad()
def test_batches_do_not_matter_and_full_precision_is_left_alone(workspace: Make) -> None:
    found = []
    for size in (4, 16):
        work = workspace(tiny("vit"), METHOD, weight=4, activation=4)
        object.__setattr__(work.config.calib, "batch_size", size)
        run(work, {"do": "equalize", "rule": "aocq"})
        found.append(linear(work, "blocks.1.attn.qkv").weight.clone())
    assert torch.allclose(found[0], found[1], rtol=1e-4)
    work = workspace(tiny("vit"), METHOD, weight="fp", activation="fp")
    before = linear(work, "blocks.0.mlp.fc1").weight.clone()
    run(work, {"do": "equalize", "rule": "aocq"})
    assert torch.equal(linear(work, "blocks.0.mlp.fc1").weight, before)


@pytest.mark.parametrize(
    ("kinds", "steps", "key", "value"),
    [
        ({}, {"e": {"do": "equalize", "rule": "sqb"}}, "rule", "sqb"),
        ({}, {"e": {"do": "equalize", "strength": 1.5}}, "strength", 1.5),
        ({}, {"e": {"do": "equalize", "bare": ["post_norm"]}}, "bare", "post_norm"),
        ({}, {"e": {"do": "equalize", "norms": False}}, "norms", False),
        ({"post_norm": {"granularity": "channel"}}, {"e": {"do": "equalize"}}, "strength", "search"),
        ({}, {"a": {"do": "calibrate", "sites": "activations"}, "e": {"do": "equalize"}}, "", None),
    ],
)
def test_mistakes_are_found_at_plan_time(kinds: dict[str, Any], steps: dict[str, Any], key: str, value: object) -> None:
    raw = {
        "model": {"name": "m"},
        "data": {"name": "d"},
        "method": {"name": "x", "kinds": {"default": {}, **kinds}, "steps": steps},
    }
    config, problems = RunConfig.parse(raw)
    assert config is not None, problems
    place = f"method.steps.e.{key}" if key else "method.steps.e"
    assert any(is_about(problem, place, value) for problem in recipe_checks.problems(config))
