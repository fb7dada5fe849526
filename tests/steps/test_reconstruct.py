"""Reconstruction: it lowers its own objective, repeats exactly, and its gradients are the papers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import images, part, run, tiny, uniform
from vitq import validate
from vitq.config import RunConfig
from vitq.quant.layout import Axes
from vitq.quant.model import build
from vitq.quant.rounding import LearnedRounding
from vitq.quant.uniform import UniformQuantizer
from vitq.steps import Workspace
from vitq.steps.reconstruct import Reconstruct, anneal, rate

Make = Callable[..., Workspace]
UNIFORM = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}
CALIBRATE = {"do": "calibrate"}


def reconstruct(**more: Any) -> dict[str, Any]:
    return {"do": "reconstruct", "iterations": 30, "batch_size": 8, "lr": 1e-3, "lr_scales": 1e-3} | more


@torch.no_grad()
def output(work: Workspace) -> Tensor:
    out: Tensor = work.model(images(work))
    return out


def scale_of(work: Workspace, site: str) -> Tensor:
    return uniform(work, site).scale


def exact(work: Workspace) -> Tensor:
    with torch.no_grad():
        x = images(work)
        for segment in work.teacher_segments():
            x = segment.forward(x)
    return x


def error(work: Workspace) -> float:
    return float((output(work) - exact(work)).square().mean())


WAYS: dict[str, dict[str, Any]] = {
    "weights": {"learn": ["weights", "bias"]},
    "rounding": {"learn": ["rounding"], "lr_rounding": 0.05},
    # Steps of a hundredth of a scale, and enough of them: blocks gain in every case, the network gains by 23 % here.
    "scales": {"learn": ["activation_scales", "weight_scales", "zero_points"], "lr_scales": 5e-4, "iterations": 80},
    "rounding and activation scales": {
        "learn": ["rounding", "activation_scales"],
        "input": "qdrop",
        "lr_rounding": 0.05,
    },
    "full-precision input": {"learn": ["weights"], "input": "fp"},
    "fisher": {"learn": ["weights", "bias"], "loss": "fisher_diag"},
    "hessian": {"learn": ["weights", "bias"], "loss": "hessian"},
    "token_channel": {"learn": ["weights", "bias"], "loss": "token_channel"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_every_way_of_learning_lowers_its_loss(workspace: Make, family: str, way: str) -> None:
    work = workspace(tiny(family), UNIFORM, images=16, weight=3, activation=4)
    run(work, CALIBRATE)
    before = error(work)
    run(work, reconstruct(**WAYS[way]))
    for name, (curve,) in work.curves.items():
        assert curve.shape == (WAYS[way].get("iterations", 30),), name
        if way.startswith("rounding") or name == "patch_embed":
            # The regularizer enters after a fifth of the iterations; and white noise leaves a single linear layer
            # nothing to gain over rounding to nearest.
            continue
        assert curve[-5:].mean() < curve[:5].mean(), name
    assert error(work) < before
    assert not any(p.requires_grad for p in work.model.parameters())


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


def test_bfloat16_autocast_comes_close(workspace: Make) -> None:
    errors = {}
    for autocast in ("none", "bf16"):
        work = workspace(tiny("vit"), UNIFORM, weight=3, activation=4)
        run(work, CALIBRATE)
        before = error(work)
        run(work, reconstruct(autocast=autocast))
        errors[autocast] = error(work) / before
    assert errors["none"] < 0.9
    assert errors["bf16"] < 0.6


def test_method_iterations_overrides_the_recipe(workspace: Make) -> None:
    work = workspace(tiny("vit"), {**UNIFORM, "iterations": 3}, weight=3, activation=3)
    run(work, CALIBRATE, reconstruct())
    assert {len(curve) for (curve,) in work.curves.values()} == {3}


# --- gradients -------------------------------------------------------------------------------------------------------


def lsq_reference(x: Tensor, scale: float, zero: float, codes: int) -> tuple[Tensor, Tensor, Tensor]:
    """∂x̂/∂x, ∂x̂/∂s, ∂x̂/∂z in float64, written out from LSQ eq. 3 and its asymmetric form (LSQ+ eq. 5–6)."""
    ratio = x.double() / scale
    code = torch.round(ratio) + zero
    below, above = code < 0, code > codes - 1
    inside = ~(below | above)
    dx = inside.double()
    clipped = torch.where(below, torch.full_like(ratio, -zero), codes - 1 - zero)
    ds = torch.where(inside, torch.round(ratio) - ratio, clipped)
    dz = torch.where(inside, torch.zeros_like(ratio), torch.full_like(ratio, -scale))
    return dx, ds, dz


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_learned_scale_and_zero_point_have_lsq_gradients(bits: int, batched: bool) -> None:
    x = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(bits))
    quantizer = build("uniform", bits, Axes(-1, token=True), "tensor", "minmax", False, {})
    assert isinstance(quantizer, UniformQuantizer)
    quantizer.fit_tensor(x * 0.6)  # so that some values are clipped
    plain = quantizer(x)
    scale, zero = quantizer.learn(scale=True, zero_point=True, batched=batched)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    leaf = x.clone().requires_grad_(True)
    out = quantizer(leaf)
    assert torch.allclose(out, plain, atol=1e-6)
    (out * upstream).sum().backward()
    dx, ds, dz = lsq_reference(x, float(scale.detach()), float(zero.detach()), 2**bits)
    # LSQ, section 2.2: the number of weights, or of features of one image.
    factor = (x.numel() / (len(x) if batched else 1) * (2**bits - 1)) ** -0.5
    assert leaf.grad is not None
    assert scale.grad is not None
    assert zero.grad is not None
    assert torch.allclose(leaf.grad.double(), dx * upstream, atol=1e-6)
    assert float(scale.grad) == pytest.approx(float((ds * upstream).sum()) * factor, rel=1e-4, abs=1e-6)
    assert float(zero.grad) == pytest.approx(float((dz * upstream).sum()) * factor, rel=1e-4, abs=1e-6)


def test_the_scale_gradient_is_the_slope_of_the_surrogate() -> None:
    """Finite differences of s ↦ s·(clamp(c + x/s, 0, Q) − z) with the rounding offset c frozen: LSQ's surrogate."""
    x = torch.randn(64, generator=torch.Generator().manual_seed(0)).double()
    scale, zero, top, h = 0.17, 6.0, 15, 1e-6
    offset = torch.round(x / scale) - x / scale + zero

    def surrogate(s: float) -> Tensor:
        return s * ((x / s + offset).clamp(0, top) - zero)

    slope = (surrogate(scale + h) - surrogate(scale - h)) / (2 * h)
    _, ds, _ = lsq_reference(x, scale, zero, 16)
    code = torch.round(x / scale) + zero
    smooth = (code != 0) & (code != top)  # the surrogate has a kink where clipping begins
    assert torch.allclose(slope[smooth], ds[smooth], atol=1e-4)
    assert int(smooth.sum()) > 30


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_clipped_values_pass_no_gradient(granularity: str) -> None:
    x = torch.tensor([[[-9.0, 0.1, 0.2, 9.0]]], requires_grad=True)
    quantizer = build("uniform", 4, Axes(-1, token=True), granularity, "minmax", False, {})
    quantizer.fit_tensor(torch.tensor([[[-1.0, -1.0, -1.0, -1.0]], [[1.0, 1.0, 1.0, 1.0]]]))
    quantizer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0, 1, 1, 0]


# --- learned rounding ------------------------------------------------------------------------------------------------


def rounding(weight: Tensor) -> LearnedRounding:
    plain = build("uniform", 3, Axes(0, weight=True), "channel", "minmax", False, {})
    assert isinstance(plain, UniformQuantizer)
    plain.fit_tensor(weight)
    return LearnedRounding(plain, weight)


def test_rounding_starts_at_the_weight_itself() -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    learned = rounding(weight)
    with torch.no_grad():
        soft = learned(weight)
    levels = learned.uniform.levels()
    inside = weight.clamp(levels[:, :1], levels[:, -1:])
    assert ((soft - inside).abs() <= 0.011 * learned.uniform.scale.view(-1, 1) + 1e-6).all()


def test_hard_rounding_goes_up_or_down_by_the_sign_and_stays_on_the_grid() -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    learned = rounding(weight)
    with torch.no_grad():
        learned.logits.copy_(torch.where(torch.arange(8) % 2 == 0, 3.0, -3.0).expand(6, 8))
    hard = learned.harden(weight)
    scale, zero = learned.uniform.scale.view(-1, 1), learned.uniform.zero_point.view(-1, 1)
    expected = (torch.floor(weight / scale) + (torch.arange(8) % 2 == 0) + zero).clamp(0, 7)
    assert torch.equal(torch.round(hard / scale) + zero, expected)
    assert torch.equal(learned.uniform(hard), hard), "the plain quantizer maps the rounded weight onto itself"


def test_the_regularizer_vanishes_at_hard_choices_only() -> None:
    learned = rounding(torch.randn(4, 4))
    with torch.no_grad():
        learned.logits.fill_(50.0)
    assert float(learned.regularizer(2.0).detach()) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        learned.logits.fill_(0.0)
    assert float(learned.regularizer(2.0).detach()) == pytest.approx(16, abs=1e-3)


def test_schedules() -> None:
    step = Reconstruct(do="reconstruct", warmup=0.1)
    assert [rate(step, i, 100) < rate(step, i + 1, 100) for i in range(9)] == [True] * 9
    assert rate(step, 10, 100) == 1
    assert rate(step, 100, 100) == pytest.approx(0)
    assert rate(Reconstruct(do="reconstruct", schedule="constant"), 77, 100) == 1
    assert anneal(0.1) is None
    assert anneal(0.2) == 20
    assert anneal(1.0) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "mes"}, "loss='mes'; valid: fisher_diag, hessian, mse, token_channel"),
        ({"drop": 1.5}, "drop=1.5"),
        ({"micro_batch": 0}, "micro_batch=0"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"iterations": 0}, "iterations=0"),
        ({"learn": []}, "name at least one part"),
        ({"learn": ["weights", "rounding"]}, "choose one of them"),
        ({"learn": ["rounding"], "quantize": ["activations"]}, "needs weights in quantize"),
        ({"learn": ["rouding"]}, "learn"),
    ],
)
def test_bad_options_are_named_before_anything_starts(options: dict[str, Any], message: str) -> None:
    raw = {
        "model": {"name": "m"},
        "data": {"name": "d"},
        "method": {"name": "x", **UNIFORM, "steps": {"c": CALIBRATE, "r": reconstruct(**options)}},
    }
    config, problems = RunConfig.parse(raw)
    assert config is not None, problems
    found = validate.problems(config)
    assert any(message in line for line in found), found
