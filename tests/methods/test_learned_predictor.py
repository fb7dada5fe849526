"""Coefficients of predicted scales that a `distill` step learns: gradient, frame, and their place in a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.errors import is_about
from tests.tiny import images, run, tiny
from vitq.engine.recipe_checks import problems
from vitq.methods.scale_predictor import PredictScales
from vitq.quant.layout import Axes
from vitq.quant.learned import RelativeScale
from vitq.quant.per_image import PerImageUniform
from vitq.quant.predictor import Predicted, Predictor
from vitq.quant.uniform import UniformQuantizer
from vitq.steps import Workspace
from vitq.steps.step import enabled_steps

Make = Callable[..., Workspace]
METHOD = {"kinds": {"weight": {"granularity": "channel"}, "probs": {"quantizer": "log2"}, "default": {}}}
PREDICT = {"do": "predict_scales", "fit": "distill", "tap": "stem"}
LEARN: dict[str, Any] = {
    "do": "distill",
    "iterations": 60,
    "batch_size": 8,
    "features": 0.0,
    "learn": ["activation_scales"],
    "lr_scales": 1e-2,
    "hold_out": 0.0,
}


def gap(work: Workspace) -> float:
    """KL to full precision over all calibration images, in float64."""
    with torch.no_grad():
        wanted, given = work.teach(images(work)).double(), work.model(images(work)).double()
    p = wanted.softmax(-1)
    return float((p * (wanted.log_softmax(-1) - given.log_softmax(-1))).sum(-1).mean())


def coefficients(work: Workspace) -> Tensor:
    assert isinstance(work.model.predictor, Predictor)
    return work.model.predictor.scales.detach()


@pytest.mark.parametrize("autocast", ["none", "bf16"])
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_coefficients_are_learned_with_the_static_scales(workspace: Make, family: str, autocast: str) -> None:
    work = workspace(tiny(family), METHOD, weight=3, activation=3)
    images(work).mul_(torch.linspace(0.3, 3, 16).view(-1, 1, 1, 1))
    run(work, {"do": "calibrate"})
    weights = {name: p.detach().clone() for name, p in work.model.model.named_parameters()}
    before = gap(work)
    run(work, {**PREDICT, "degree": 2})
    assert float(coefficients(work).abs().max()) == 0
    assert gap(work) == pytest.approx(before, rel=1e-6), "the static model, as long as nothing is learned"
    static = {
        name: site.quantizer.scale.clone()
        for name, site in work.model.sites.items()
        if isinstance(site.quantizer, PerImageUniform)
    }
    run(work, {**LEARN, "autocast": autocast})
    assert gap(work) < 0.95 * before
    assert float(coefficients(work).abs().min(dim=1).values.max()) > 0
    assert not any(p.requires_grad for p in work.model.parameters())
    assert all(torch.equal(p, weights[name]) for name, p in work.model.model.named_parameters())
    moved = [
        not torch.equal(site.quantizer.scale, static[name])
        for name, site in work.model.sites.items()
        if isinstance(site.quantizer, PerImageUniform)
    ]
    assert len(moved) > 4
    assert all(moved)


def test_what_does_not_help_is_taken_back(workspace: Make) -> None:
    work = workspace(tiny("vit"), METHOD, weight=8, activation=8)
    run(work, {"do": "calibrate"}, PREDICT, {**LEARN, "lr_scales": 1.0, "hold_out": 0.25, "iterations": 3})
    assert float(coefficients(work).abs().max()) == 0


def test_the_gradient_of_a_coefficient_is_that_of_its_scale() -> None:
    """∂L/∂a_k = Σ_images r^k·s₀·∂L/∂s, with ∂x̂/∂s = code − x/s inside the range and code outside it."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 6, 5, generator=generator) * torch.tensor([0.5, 1.0, 1.5, 3.0]).view(-1, 1, 1)
    uniform = UniformQuantizer(3, "tensor", Axes(-1, token=True))
    uniform.fit_tensor(x[1:2])
    predictor = Predictor(sites=1, features=1, degree=2, chunks=1, clamp=(0.5, 2.0), constant=False)
    predictor.scales.data = torch.tensor([[0.1], [0.02]])
    predictor.mean.fill_(4.0)
    predictor.std.fill_(3.0)
    predictor.scales.requires_grad_(True)
    learned = RelativeScale(PerImageUniform(uniform, Predicted(predictor, 0, moves_zero=False)))
    predictor.see(x)
    sent = torch.randn(x.shape, generator=generator)
    out = learned(x)
    (out * sent).sum().backward()

    data, scale, zero = x.double().numpy(), float(uniform.scale), float(uniform.zero_point)
    r = (data.max(axis=(1, 2)) - data.min(axis=(1, 2)) - 4) / 3
    factor = np.clip(1 + 0.1 * r + 0.02 * r**2, 0.5, 2)[:, None, None]
    ratio = data / (scale * factor)
    code = np.clip(np.round(ratio) + zero, 0, 7) - zero
    inside = (ratio >= -zero) & (ratio <= 7 - zero)
    assert 0.1 < inside.mean() < 0.95, "some are clipped, or nothing is proved"
    slope = np.where(inside, code - ratio, code) * sent.double().numpy()
    each = scale * slope.sum(axis=(1, 2))
    assert np.allclose(out.detach().numpy(), code * scale * factor, atol=1e-6)
    assert predictor.scales.grad is not None
    assert predictor.scales.grad.flatten().tolist() == pytest.approx([(each * r).sum(), (each * r**2).sum()], rel=1e-4)
    assert learned.r.grad is not None
    assert float(learned.r.grad) == pytest.approx((each * factor.ravel()).sum(), rel=1e-4)


def test_what_was_learned_is_what_is_used() -> None:
    x = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
    uniform = UniformQuantizer(3, "channel", Axes(-1, token=True))
    uniform.fit_tensor(x)
    predictor = Predictor(sites=1, features=1, degree=1, chunks=2, clamp=(0.5, 2.0), constant=False)
    predictor.scales.data = torch.tensor([[0.3]])
    predictor.see(x * torch.tensor([0.5, 1.0, 2.0]).view(-1, 1, 1))
    site = PerImageUniform(uniform, Predicted(predictor, 0, moves_zero=False))
    learned = RelativeScale(site)
    learned.r.data = torch.tensor([0.2, -0.1, 0.0, 0.4])
    value = learned(x).detach()
    learned.settle()
    assert torch.allclose(site(x), value, atol=1e-6)


@pytest.mark.parametrize(
    "behind",
    [
        {},
        {"learn": {**LEARN, "learn": ["bias"]}},
        {"learn": {**LEARN, "compile": "on"}},
        {"bias": {"do": "bias_correction"}},
        {"learn": LEARN, "bias": {"do": "bias_correction"}},
    ],
)
def test_who_learns_the_coefficients_stands_behind_alone(workspace: Make, behind: dict[str, Any]) -> None:
    steps = {"calibrate": {"do": "calibrate"}, "predict": PREDICT, **behind}
    work = workspace(tiny("vit"), {**METHOD, "steps": steps})
    before, step, *others = enabled_steps(work.config)
    assert isinstance(step, PredictScales)
    (problem,) = step.check_order([before], others)
    assert is_about(problem, "fit", "distill")
    assert any(is_about(found, "method.steps.predict.fit", "distill") for found in problems(work.config))


def test_a_distill_behind_is_allowed(workspace: Make) -> None:
    steps = {"calibrate": {"do": "calibrate"}, "predict": PREDICT, "learn": LEARN}
    work = workspace(tiny("vit"), {**METHOD, "steps": steps}, weight=4, activation=4)
    assert not problems(work.config)
