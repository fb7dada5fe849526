"""Reconstruction: it lowers its own objective, repeats exactly, and its gradients are the papers'."""

from __future__ import annotations

import resource
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.errors import is_about, refuses
from tests.steps.reconstructions import CALIBRATE, UNIFORM, WAYS, Make, error, output, reconstruct
from tests.tiny import part, run, tiny, uniform
from vitq.config import RunConfig
from vitq.engine import recipe_checks
from vitq.errors import VitqError
from vitq.quant.logarithmic import LogQuantizer
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer
from vitq.steps import Workspace


def scale_of(work: Workspace, site: str) -> Tensor:
    return uniform(work, site).scale


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_every_way_of_learning_lowers_its_loss(workspace: Make, family: str, way: str) -> None:
    # Finer patches than other tests have: with few tokens, batches differ by more than is learned.
    model = tiny(family, **({"patch_size": 2} if family == "swin" else {}))
    work = workspace(model, UNIFORM, images=16, weight=3, activation=4)
    run(work, CALIBRATE)
    before = error(work)
    run(work, reconstruct(**WAYS[way]))
    for name, (curve,) in work.curves.items():
        assert curve.shape == (WAYS[way].get("iterations", 30),), name
        if way.startswith("rounding") or name == "patch_embed":
            # The regularizer enters after a fifth of the iterations; and white noise leaves a single linear layer
            # nothing to gain over rounding to nearest.
            continue
        # Batches are drawn, and one is harder than another: thirds of the curve are compared.
        assert curve[-10:].mean() < curve[:10].mean(), name
    assert error(work) < before
    assert not any(p.requires_grad for p in work.model.parameters())


@pytest.mark.parametrize("off", [-2.0, 2.0])
def test_a_wrong_zero_point_is_learned_back(workspace: Make, off: float) -> None:
    work = workspace(tiny("vit"), UNIFORM, images=16, weight="fp", activation=4)
    run(work, CALIBRATE)
    site = "blocks.0.mlp.fc1.input"
    quantizer, right = uniform(work, site), float(uniform(work, site).zero_point)
    assert 2 <= right <= 13, "a zero point within the codes on either side"
    scales = {s.name: scale_of(work, s.name).clone() for s in work.model.quantized()}
    quantizer.zero_point += off
    quantizer.refresh()
    before = error(work)
    run(work, reconstruct(quantize=["activations"], learn=["zero_points"], lr_zero_points=0.05, iterations=80))
    assert float(quantizer.zero_point).is_integer()
    assert abs(float(quantizer.zero_point) - right) <= 1
    assert error(work) < before
    assert all(torch.equal(scale_of(work, name), scale) for name, scale in scales.items())


def test_symmetric_quantizers_keep_their_zero_point(workspace: Make) -> None:
    work = workspace(tiny("vit"), {"kinds": {"default": {"symmetric": True}}}, weight="fp", activation=4)
    run(
        work,
        CALIBRATE,
        reconstruct(quantize=["activations"], learn=["activation_scales", "zero_points"], lr_zero_points=1),
    )
    assert {float(uniform(work, site.name).zero_point) for site in work.model.quantized()} == {8.0}


def test_what_is_not_learned_stays(workspace: Make) -> None:
    work = workspace(tiny("vit"), UNIFORM, weight=4, activation=4)
    run(work, CALIBRATE)
    model = work.model.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    scales = {s.name: scale_of(work, s.name).clone() for s in work.model.quantized()}
    run(work, reconstruct(learn=["bias"]))
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all(name.endswith(".bias") and "norm" not in name for name in changed), "norms stay as they are"
    for site in work.model.quantized():
        assert torch.equal(scale_of(work, site.name), scales[site.name])


def test_full_precision_segments_are_left_alone(workspace: Make) -> None:
    """Stage 1 of I&S-ViT has nothing to repair in the patch embedding: only its weight would be quantized."""
    work = workspace(tiny("vit"), UNIFORM, weight=4, activation=4)
    run(work, {"do": "calibrate", "sites": "activations"})
    before = part(work.model.model, "patch_embed.proj").weight.detach().clone()
    run(work, reconstruct(quantize=["activations"], input="fp"))
    assert torch.equal(part(work.model.model, "patch_embed.proj").weight, before)
    assert "patch_embed" not in work.curves


def test_the_result_repeats_whatever_the_global_seed_and_the_cache(workspace: Make) -> None:
    found = []
    for seed, cache in ((1, "host"), (2, "disk"), (3, "device")):
        torch.manual_seed(seed)
        work = workspace(tiny("vit"), UNIFORM, weight=3, activation=3)
        object.__setattr__(work.config.calib, "cache", cache)
        run(work, CALIBRATE, reconstruct(input="qdrop"))
        found.append(output(work))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_disk_without_room_for_a_stream_is_an_error_that_names_it(workspace: Make) -> None:
    """A write into a mapped file that finds no space ends the process. The limit on file sizes stands for the disk."""
    work = workspace(tiny("vit"), UNIFORM, weight=3, activation=3)
    object.__setattr__(work.config.calib, "cache", "disk")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with refuses(VitqError, key="calib.cache", value="disk", valid=["host"]):
            run(work, CALIBRATE, reconstruct())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_do_not_depend_on_how_many_images_go_through_at_once(
    workspace: Make, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    # Three micro-batches, the last one smaller: its images must not weigh more than the others.
    found: dict[int, list[Tensor]] = {8: [], 3: []}
    for micro, gradients in found.items():

        class Adam(torch.optim.Adam):
            def step(self, *_: Any, seen: list[Tensor] = gradients) -> None:  # type: ignore[override]
                seen.extend(p.grad.clone() for group in self.param_groups for p in group["params"])

        monkeypatch.setattr(torch.optim, "Adam", Adam)
        work = workspace(tiny("vit"), UNIFORM, images=16, weight=4, activation=4)
        run(work, CALIBRATE, reconstruct(**{**WAYS[way], "input": "fp", "iterations": 1, "micro_batch": micro}))
        gradients.extend(curve for (curve,) in work.curves.values())
    assert len(found[8]) == len(found[3]) > len(work.curves)
    for whole, parts in zip(*found.values(), strict=True):
        assert torch.allclose(whole, parts, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))


def test_another_seed_draws_other_batches(workspace: Make) -> None:
    found = []
    for seed in (0, 1):
        work = workspace(tiny("vit"), UNIFORM, weight=3, activation=3)
        object.__setattr__(work.config, "seed", seed)
        run(work, CALIBRATE, reconstruct())
        found.append(output(work))
    assert not torch.equal(*found)


@pytest.mark.parametrize(("autocast", "dtype"), [("none", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_is_of_products_alone_and_comes_close(workspace: Make, autocast: str, dtype: torch.dtype) -> None:
    work = workspace(tiny("vit"), UNIFORM, weight=3, activation=4)
    run(work, CALIBRATE)
    before, learning = error(work), set()
    for name in ("blocks.0.attn.qkv", "blocks.1.mlp.fc2"):
        part(work.model.model, name).register_forward_hook(
            lambda _module, _inputs, found: learning.add(found.dtype) if torch.is_grad_enabled() else None
        )
    run(work, reconstruct(autocast=autocast))
    assert learning == {dtype}
    assert {tensor.dtype for tensor in work.model.model.state_dict().values()} <= {torch.float32, torch.bool}
    assert {curve.dtype for (curve,) in work.curves.values()} == {torch.float32}
    assert output(work).dtype == torch.float32
    assert error(work) / before < 0.6


def test_method_iterations_overrides_the_recipe(workspace: Make) -> None:
    work = workspace(tiny("vit"), {**UNIFORM, "iterations": 3}, weight=3, activation=3)
    run(work, CALIBRATE, reconstruct())
    assert {len(curve) for (curve,) in work.curves.values()} == {3}


def test_sites_that_were_on_are_on_again(workspace: Make) -> None:
    work = workspace(tiny("vit"), UNIFORM, weight=3, activation=4)
    run(work, CALIBRATE, reconstruct(quantize=["weights"], learn=["rounding"], iterations=2))
    assert {site.kind for site in work.model.quantized() if not site.on} == set()
    assert any(not site.is_weight for site in work.model.quantized())


def test_sites_that_no_step_fitted_stay_in_full_precision(workspace: Make) -> None:
    work = workspace(tiny("vit"), UNIFORM, weight=3, activation=4)
    run(work, {"do": "calibrate", "sites": "activations"}, reconstruct(iterations=2))
    assert all(site.on is not site.is_weight for site in work.model.quantized())
    assert torch.isfinite(output(work)).all()


@pytest.mark.parametrize(
    ("options", "key", "value", "valid"),
    [
        ({"loss": "mes"}, "loss", "mes", ["fisher_diag", "hessian", "mse", "token_channel"]),
        ({"drop": 1.5}, "drop", 1.5, []),
        ({"micro_batch": 0}, "micro_batch", 0, []),
        ({"warmup": 1.0}, "warmup", 1.0, []),
        ({"iterations": 0}, "iterations", 0, []),
        ({"learn": []}, "learn", (), []),
        ({"learn": ["weights", "rounding"]}, "learn", ("weights", "rounding"), []),
        ({"learn": ["rounding"], "quantize": ["activations"]}, "quantize", ("activations",), ["weights"]),
        (
            {"learn": ["rounding", "activation_scales"], "quantize": ["weights"]},
            "quantize",
            ("weights",),
            ["activations"],
        ),
        ({"learn": ["rouding"]}, "learn.0", "rouding", ["rounding"]),
        ({"learn": ["zero_points"], "iterations": 100}, "lr_zero_points", None, []),
        ({"lr": -1e-3}, "lr", -1e-3, []),
        ({"learn": ["zero_points"], "lr_zero_points": -1}, "lr_zero_points", -1.0, []),
    ],
)
def test_bad_options_are_named_before_anything_starts(
    options: dict[str, Any], key: str, value: object, valid: list[str]
) -> None:
    raw = {
        "model": {"name": "m"},
        "data": {"name": "d"},
        "method": {"name": "x", **UNIFORM, "steps": {"c": CALIBRATE, "r": reconstruct(**options)}},
    }
    config, problems = RunConfig.parse(raw)
    assert config is not None, problems
    found = recipe_checks.problems(config)
    assert any(is_about(problem, f"method.steps.r.{key}", value, valid) for problem in found), found


def test_scales_of_logarithms_are_learned_where_they_are_relative(workspace: Make) -> None:
    kinds = UNIFORM["kinds"] | {"probs": {"quantizer": "log2"}}
    learn = reconstruct(learn=["rounding", "activation_scales"], lr_scales=0.02, lr_rounding=0.05)
    for relative in (False, True):
        work = workspace(tiny("vit"), {"kinds": kinds}, weight=4, activation=4)
        run(work, CALIBRATE)
        before = {site.name: learned_scale(site).clone() for site in work.model.quantized()}
        run(work, learn | {"relative": relative})
        after = {site.name: learned_scale(site) for site in work.model.quantized()}
        moved = {site.kind for site in work.model.quantized() if not torch.equal(after[site.name], before[site.name])}
        assert ("probs" in moved) is relative
        assert "query" in moved
        assert "weight" not in moved
        assert all(float(scale.min()) > 0 for scale in after.values())
        assert all(site.stand_in is None for site in work.model.sites.values())


def learned_scale(site: Site) -> Tensor:
    assert isinstance(site.quantizer, UniformQuantizer | LogQuantizer)
    return site.quantizer.scale
