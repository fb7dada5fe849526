"""MLP reconstruction: ReLU in the student alone, and the loss of its paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import Mlp
from torch import nn
from torch.nn import functional as F

from tests.errors import is_about
from tests.job.test_detectors import Detectors
from tests.methods.one_segment import METHOD, Make, values
from tests.tiny import images, run, tiny, uniform
from vitq.engine.recipe_checks import problems
from vitq.methods.relu_mlp import ReluMlp, gelu_mlps, seen
from vitq.steps.reconstruction.curvature import importance, products
from vitq.steps.reconstruction.object_curvature import importance as importance_of_images
from vitq.steps.step import parse_step
from vitq.steps.stream import ImageStream, TensorStream, through

LEARN = {"do": "relu_mlp", "iterations": 60, "batch_size": 16, "lr": 2e-3}


def mlps(model: nn.Module) -> list[Mlp]:
    return [module for module in model.modules() if isinstance(module, Mlp)]


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_relu_learns_what_gelu_did(workspace: Make, family: str) -> None:
    work = workspace(tiny(family), METHOD, images=16, weight=4, activation=4)
    run(work, LEARN)
    assert all(isinstance(mlp.act, nn.ReLU) for mlp in mlps(work.model.model))
    assert all(isinstance(mlp.act, nn.GELU) for mlp in mlps(work.teacher.model))
    curves = [curve for (curve,) in work.curves.values()]
    assert len(curves) == len(mlps(work.model.model))
    for curve in curves:
        assert curve[-10:].mean() < 0.7 * curve[:10].mean()
    with torch.no_grad():
        learned, exact = work.model(images(work)), work.teach(images(work))
        for name, mlp in gelu_mlps(work.model.structure):
            mlp.load_state_dict(work.teacher.model.get_submodule(name).state_dict(), strict=False)
        replaced = work.model(images(work))
    assert float((learned - exact).square().mean()) < float((replaced - exact).square().mean())
    run(work, {"do": "calibrate"})
    sites = [name for name, site in work.model.sites.items() if site.kind == "post_gelu"]
    assert sites
    assert {float(uniform(work, name).zero_point) for name in sites} == {0.0}
    assert not any(p.requires_grad for p in work.model.parameters())


@pytest.mark.parametrize("weighted", [True, False])
def test_the_first_loss_is_that_of_the_formula(workspace: Make, weighted: bool) -> None:
    work = workspace(tiny("vit"), METHOD, images=6, weight=4, activation=4)
    mlp = mlps(work.teacher.model)[0]
    exact: TensorStream | ImageStream = ImageStream(work)
    for segment in work.teacher.segments[:1]:
        with torch.no_grad():
            exact = TensorStream.of(work, segment.forward(images(work)))
    read, given = seen(work, 1, exact, "blocks.0.mlp")
    x, y = values(read).double(), values(given).double()
    layers: list[Any] = [mlp.fc1, mlp.fc2]
    (w1, b1), (w2, b2) = ((layer.weight.double(), layer.bias.double()) for layer in layers)
    raw = F.linear(x, w1, b1)
    assert torch.allclose(F.linear(F.gelu(raw), w2, b2), y, atol=1e-5)
    most = float(np.quantile(F.gelu(raw)[F.gelu(raw) > 0].detach().numpy(), 0.9))
    weight = torch.ones(y.shape[1:], dtype=torch.float64)
    if weighted:
        with torch.no_grad():
            outputs = work.teacher.segments[1].forward(values(exact))
        weight = importance(products(work, 1, iter([outputs]), 20.0)).double()
        weight = weight / weight.square().mean().sqrt()
    parts = [((F.linear(h, w2, b2) - y) ** 2 * weight).mean() for h in (raw.relu(), raw.relu().clamp(max=most))]
    options = {"iterations": 1, "percentile": 0.9, "clamped": 3.0, "weighted": weighted}
    run(work, {"do": "relu_mlp", **options})
    (curve,) = work.curves["blocks.0"]
    assert float(curve[0]) == pytest.approx(float(parts[0] + 3 * parts[1]), rel=1e-3)


def test_steps_that_compare_layers_do_not_follow_it() -> None:
    step, problems = parse_step("mlp", {"do": "relu_mlp"})
    correct, _ = parse_step("correct", {"do": "bias_correction"})
    assert isinstance(step, ReluMlp), problems
    assert correct is not None
    (problem,) = step.check_order([], [correct])
    assert is_about(problem, key="", value="correct")
    assert step.check_order([], []) == []


@pytest.mark.parametrize(
    ("do", "wrong"), [("rotate", False), ("centre", False), ("calibrate", True), ("reparameterize", True)]
)
def test_nothing_is_folded_or_fitted_before_it(do: str, wrong: bool) -> None:
    """Behind a fold its MLPs would learn on inputs that they never read."""
    step, _ = parse_step("mlp", {"do": "relu_mlp"})
    before, problems = parse_step("before", {"do": do})
    assert step is not None
    assert before is not None, problems
    found = [problem.value for problem in step.check_order([before], [])]
    assert set(found) == ({"before"} if wrong else set())


@pytest.mark.parametrize("weighted", [False, True])
def test_images_of_several_sizes_learn_one_at_a_time(tmp_path: Path, weighted: bool) -> None:
    """A detector's first loss against numpy's mean of the images' means, each image with its own weights."""
    detectors = Detectors(tmp_path)
    mlp = {"do": "relu_mlp", "iterations": 1, "batch_size": 2, "percentile": 0.9, "clamped": 3.0, "weighted": weighted}
    config = detectors.config({"name": "mlps", "kinds": {}, "steps": {"mlp": mlp}})
    assert problems(config) == []
    work = detectors.workspace(config)
    assert [name for name, _ in gelu_mlps(work.teacher)] == [name for name, m in work.model.model.named_modules()
                                                             if isinstance(m, Mlp)]  # fmt: skip
    name, teacher = next(gelu_mlps(work.teacher))
    exact = through(work.teacher.segments[0].forward, ImageStream(work), work)
    read, given = seen(work, 1, exact, name)
    pairs = [(x.double(), y.double()) for (x,), (y,) in zip(read.batches(), given.batches(), strict=True)]
    layers: list[Any] = [teacher.fc1, teacher.fc2]
    (w1, b1), (w2, b2) = ((layer.weight.detach().double(), layer.bias.detach().double()) for layer in layers)
    hidden = torch.cat([F.gelu(F.linear(x, w1, b1)).flatten() for x, _ in pairs])
    most = float(np.quantile(hidden[hidden > 0].numpy(), 0.9))
    target = through(work.teacher.segments[1].forward, exact, work)
    weights: list[Any] = [torch.ones(())] * 2
    if weighted:
        weights = [part.double() for (part,) in importance_of_images(work, 1, exact, target, 20.0, "signs").batches()]
        rms = torch.cat([weight.flatten() for weight in weights]).square().mean().sqrt()
        weights = [(weight / rms).flatten(1, 2) for weight in weights]
    losses = []
    for (x, y), weight in zip(pairs, weights, strict=True):
        raw = F.linear(x, w1, b1).relu()
        parts = [((F.linear(h, w2, b2) - y) ** 2 * weight).mean() for h in (raw, raw.clamp(max=most))]
        losses.append(float(parts[0] + 3 * parts[1]))
    (curve,) = work.curves["backbone.body.layers.0.blocks.0"]
    assert float(curve[0]) == pytest.approx(sum(losses) / 2, rel=1e-3)
