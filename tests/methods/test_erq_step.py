"""The step `erq` in a model: every layer, the patch embedding, what it takes for reference, its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.errors import is_about
from tests.tiny import images, part, run, tiny, uniform
from vitq.config import RunConfig
from vitq.engine import recipe_checks
from vitq.errors import Problem
from vitq.methods import erq
from vitq.quant.dual import DualUniformQuantizer
from vitq.quant.layers import QuantConv2d
from vitq.steps import Workspace

Make = Callable[..., Workspace]
METHOD = {
    "kinds": {
        "weight": {"granularity": "channel"},
        "post_norm": {"granularity": "channel", "options": {"include_zero": False}},
        "default": {},
    }
}
REPQ = [
    {"do": "calibrate", "sites": "activations"},
    {"do": "reparameterize"},
    {"do": "calibrate", "sites": "weights"},
]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_every_layer_of_a_model(workspace: Make, family: str, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Aqer lowers each layer's squared output error, weights lie on their grids, the patch embedding is left alone."""
    gains: dict[int, float] = {}
    solve = erq.aqer

    def watched(weight: Tensor, moments: erq.Moments, penalty: float, bias: bool) -> tuple[Tensor, Tensor]:
        found, shift = solve(weight, moments, penalty, bias)
        change = found - weight
        # ‖W(x − x̄) − δWx̄ − δb‖² − ‖W(x − x̄)‖² from the moments, over all images.
        gram, mixed = moments.gram(bias), moments.mixed(bias)
        gain = ((change @ gram) * change).sum() - 2 * ((weight @ mixed) * change).sum()
        gains[len(gains)] = float(gain)
        return found, shift

    monkeypatch.setattr(erq, "aqer", watched)
    work = workspace(tiny(family), METHOD, weight=4, activation=4)
    run(work, *REPQ)
    patch = part(work.model.model, "patch_embed.proj").weight.detach().clone()
    run(work, {"do": "erq", "bias": bias, "penalty": 1.0})
    assert len(gains) == len(work.model.structure.inputs) - 1
    assert all(gain < 0 for gain in gains.values())
    assert torch.equal(part(work.model.model, "patch_embed.proj").weight, patch)
    for site in work.model.quantized():
        if site.is_weight and site.owner != "patch_embed.proj":
            weight = work.model.layer(site).weight
            assert torch.equal(uniform(work, site.name)(weight), weight), f"{site.name} is not on its grid"
            assert site.on


@torch.no_grad()
def test_the_patch_embedding_is_rounded_by_wqer(workspace: Make) -> None:
    """Its output lies nearer to full precision's than that of its weight rounded to nearest."""
    errors = {}
    for updated in (True, False):
        work = workspace(tiny("vit"), METHOD, images=64, weight=3, activation=4)
        run(work, *REPQ)
        layer = part(work.model.model, "patch_embed.proj")
        assert isinstance(layer, QuantConv2d)
        exact = torch.nn.functional.conv2d(images(work), layer.weight, layer.bias, layer.stride)
        before = layer.weight.detach().clone()
        run(work, {"do": "erq", "patch": updated, "penalty": 10.0})
        assert torch.equal(layer.weight, before) is not updated
        errors[updated] = float((layer(images(work)) - exact).square().mean())
    assert errors[True] < 0.9 * errors[False]


@torch.no_grad()
def test_a_patch_embedding_that_nothing_has_fitted_is_rounded_to_nearest(workspace: Make) -> None:
    """Else a recipe without a step for the weights, in which erq fits all others, would leave it in floating point."""
    work, other = (workspace(tiny("vit"), METHOD, weight=4, activation=4) for _ in range(2))
    run(work, *REPQ[:2], {"do": "erq"})
    run(other, *REPQ)
    site = work.model.sites["patch_embed.proj.weight"]
    assert site.on
    ours, theirs = (uniform(w, site.name)(part(w.model.model, "patch_embed.proj").weight) for w in (work, other))
    assert torch.equal(ours, theirs)


@torch.no_grad()
def distance(work: Workspace) -> float:
    x = images(work)
    quantized = work.model(x)
    for segment in work.teacher.segments:
        x = segment.forward(x)
    return float((quantized - x).square().mean())


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_the_network_comes_closer_to_full_precision_with_each_part(workspace: Make, family: str) -> None:
    """At the calibration images' output; every part alone beats round-to-nearest, both together beat either."""
    found = {}
    for name, options in {
        "none": {"enabled": False},
        "aqer": {"wqer": False},
        "wqer": {"aqer": False},
        "both": {},
    }.items():
        work = workspace(tiny(family), METHOD, images=64, weight=3, activation=4)
        run(work, *REPQ)
        if options.get("enabled", True):
            run(work, {"do": "erq", "penalty": 50.0, "penalty_head": 50.0, "patch": True, **options})
        found[name] = distance(work)
    assert found["both"] < found["aqer"] < found["none"]
    assert found["both"] < found["wqer"] < found["none"]


def test_batches_do_not_matter(workspace: Make) -> None:
    found = []
    for size in (5, 16):
        work = workspace(tiny("vit"), METHOD, weight=8, activation=8)
        object.__setattr__(work.config.calib, "batch_size", size)
        run(work, *REPQ, {"do": "erq", "wqer": False})
        found.append({name: p.detach().clone() for name, p in work.model.model.named_parameters()})
    for name, parameter in found[0].items():
        assert torch.allclose(parameter, found[1][name], atol=1e-4), name


def test_options_are_checked_before_anything_starts() -> None:
    def found(weight: dict[str, Any] | None = None, **options: Any) -> list[Problem]:
        method = {
            "name": "x",
            "kinds": {"default": {}} | ({} if weight is None else {"weight": weight}),
            "steps": {"c": {"do": "calibrate"}, "e": {"do": "erq"} | options},
        }
        config, problems = RunConfig.parse({"model": {"name": "m"}, "data": {"name": "d"}, "method": method})
        assert config is not None, problems
        return recipe_checks.problems(config)

    assert found() == []
    for options, key, value in (
        ({"penalty": 0.0}, "penalty", 0.0),
        ({"flips": 0}, "flips", 0),
        ({"aqer": False, "wqer": False}, "aqer", False),
        ({"choose": "best"}, "choose", "best"),
        ({"dual": 0.05}, "dual", 0.05),
    ):
        assert any(is_about(problem, f"method.steps.e.{key}", value) for problem in found(**options)), key
    assert found({"granularity": "channel"}, dual=0.05) == []
    by_group = found({"granularity": "group:8"}, dual=0.05)
    assert any(is_about(problem, "method.steps.e.dual", 0.05) for problem in by_group)


def test_dual_gives_two_ranges_to_weights_behind_folded_norms_alone(workspace: Make) -> None:
    work = workspace(tiny("vit"), METHOD, weight=3, activation=4)
    run(work, *REPQ, {"do": "erq", "dual": 0.1, "penalty": 1.0})
    folded = {name for link in work.model.structure.links for name in link.consumers}
    for site in work.model.quantized():
        if site.is_weight:
            assert isinstance(site.quantizer, DualUniformQuantizer) is (site.owner in folded), site.name
            weight = work.model.layer(site).weight
            if site.owner != "patch_embed.proj":
                assert torch.equal(uniform(work, site.name)(weight), weight), f"{site.name} is not on its grid"


def test_local_reference_sees_no_error_of_earlier_layers(workspace: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """X is the full-precision network's input of every layer, and X̄ is it quantized, whatever was rounded before."""
    work = workspace(tiny("vit"), METHOD, weight=3, activation=4)
    run(work, *REPQ)
    work.model.switch(work.model.sites.values(), on=False)
    exact: dict[str, Tensor] = {}
    hooks = [
        work.model.model.get_submodule(name).register_forward_pre_hook(
            lambda _, x, name=name: exact.__setitem__(name, x[0].detach())
        )
        for name in work.model.structure.inputs
    ]
    with torch.no_grad():
        work.model(images(work))
    for hook in hooks:
        hook.remove()
    work.model.switch(work.model.sites.values(), on=True)
    seen_mean: list[Tensor] = []
    solve = erq.aqer

    def watched(weight: Tensor, moments: erq.Moments, penalty: float, bias: bool) -> tuple[Tensor, Tensor]:
        seen_mean.append(moments.mean + moments.difference)
        return solve(weight, moments, penalty, bias)

    monkeypatch.setattr(erq, "aqer", watched)
    run(work, {"do": "erq", "reference": "local", "penalty": 1.0})
    names = [name for name in exact if name != "patch_embed.proj"]
    assert len(seen_mean) == len(names)
    for name, mean in zip(names, seen_mean, strict=True):
        assert torch.allclose(mean, exact[name].double().flatten(0, -2).mean(0), atol=1e-4), name
