"""Channel affine: least squares, folded without a trace at run time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.errors import is_about
from tests.tiny import images, linear, run, tiny, uniform
from vitq.errors import Problem
from vitq.quant.site_table import quantized_bytes
from vitq.steps import Workspace
from vitq.steps.channel_affine import Sums, fold
from vitq.steps.layer_walk import layers, quantized_walk, teacher_walk
from vitq.steps.step import parse_step

Make = Callable[..., Workspace]
UNIFORM = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}
CALIBRATE = {"do": "calibrate"}


def errors(work: Workspace) -> dict[str, float]:
    """Mean squared output error of every layer, on the network as it stands."""
    quantized, exact = quantized_walk(work), teacher_walk(work)
    found = {}
    for name, layer in layers(work, [quantized, exact], "errors"):
        target = exact.module(name)
        with torch.no_grad():
            parts = [
                (layer(a) - target(b)).square().mean()
                for a, b in zip(quantized.arriving(name), exact.arriving(name), strict=True)
            ]
        found[name] = float(torch.stack(parts).mean())
    return found


def test_it_is_least_squares_with_a_ridge() -> None:
    random = np.random.default_rng(0)
    y, r = random.normal(size=(50, 3)) * [1, 5, 0.1] + 2, random.normal(size=(50, 3))
    r += 0.3 * y
    sums = Sums()
    for part in (slice(0, 20), slice(20, 50)):
        sums.add(torch.tensor(y[part]).unsqueeze(0), torch.tensor(r[part]).unsqueeze(0))
    slope, shift = sums.solve(0.01)
    ridge = 0.01 * y.var(axis=0).mean() * 50
    for channel in range(3):
        design = np.stack([y[:, channel], np.ones(50)], axis=1)
        expected = np.linalg.solve(design.T @ design + np.diag([ridge, 0]), design.T @ r[:, channel])
        assert [float(slope[channel]), float(shift[channel])] == pytest.approx(expected.tolist())
    left = np.mean((r - slope.numpy() * y - shift.numpy()) ** 2, axis=0)
    assert sums.error(slope, shift).tolist() == pytest.approx(left.tolist())


@pytest.mark.parametrize("granularity", ["channel", "group:4"])
def test_folding_keeps_every_code_and_adds_nothing(workspace: Make, granularity: str) -> None:
    work = workspace(
        tiny("vit"), {"kinds": {"weight": {"granularity": granularity}, "default": {}}}, weight=3, activation=3
    )
    run(work, CALIBRATE)
    layer = linear(work, "blocks.0.mlp.fc1")
    quantizer = uniform(work, "blocks.0.mlp.fc1.weight")
    x = torch.randn(4, 7, layer.in_features, generator=torch.Generator().manual_seed(0))
    modules, size = [name for name, _ in work.model.named_modules()], quantized_bytes(work.model, 1000)
    with torch.no_grad():
        codes, before = quantizer.encode(layer.weight), layer(x)
        factor = torch.linspace(0.5, 1.7, layer.out_features).double()
        shift = torch.linspace(-1, 1, layer.out_features).double()
        fold(layer, factor, shift)
        after = layer(x)
    assert torch.equal(uniform(work, "blocks.0.mlp.fc1.weight").encode(layer.weight), codes)
    assert torch.allclose(after, (before.double() * factor + shift).float(), atol=1e-4)
    assert [name for name, _ in work.model.named_modules()] == modules, "nothing is left to compute"
    assert quantized_bytes(work.model, 1000) == size


@pytest.mark.parametrize("hold_out", [0.0, 0.25])
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_the_error_of_every_layer_falls(workspace: Make, family: str, hold_out: float) -> None:
    found = {}
    for penalty in (1e9, 1e-3):  # the first is bias_correction: a = 1
        work = workspace(tiny(family), UNIFORM, images=16, weight=2, activation=4)
        run(work, CALIBRATE)
        before = errors(work)
        run(work, {"do": "channel_affine", "penalty": penalty, "hold_out": hold_out})
        found[penalty] = errors(work)
        with torch.no_grad():
            off = float((work.model(images(work)) - work.teach(images(work))).square().mean())
        found[penalty]["logits"] = off
    first = next(iter(before))
    assert found[1e-3][first] < found[1e9][first] < before[first]
    assert found[1e-3]["logits"] < found[1e9]["logits"]


def test_what_was_fitted_to_images_that_are_not_held_out_is_kept_where_it_helps_there(workspace: Make) -> None:
    """A held-out image of quite another kind: the channels that got worse on it stay as they were."""
    work = workspace(tiny("vit"), UNIFORM, images=8, weight=2, activation=4)
    run(work, CALIBRATE)
    images(work)[6:] *= 40
    before = linear(work, "head").bias.clone()
    weight = uniform(work, "patch_embed.proj.weight").scale.clone()
    run(work, {"do": "channel_affine"})
    ratio = uniform(work, "patch_embed.proj.weight").scale / weight
    assert 0 < int((ratio == 1).sum()) < len(ratio)
    assert before.shape == linear(work, "head").bias.shape


def test_one_scale_for_all_channels_cannot_hold_it(workspace: Make) -> None:
    work = workspace(tiny("vit"), {"kinds": {"weight": {}, "default": {}}}, images=2)
    step, problems = parse_step("affine", {"do": "channel_affine"})
    assert step is not None, problems
    (problem,) = step.check(work.config)
    assert isinstance(problem, Problem)
    assert is_about(problem, key="", value="tensor", valid=["channel", "group:N"])


def test_a_share_that_leaves_no_image_to_fit_is_refused(workspace: Make) -> None:
    work = workspace(tiny("vit"), UNIFORM, images=16)
    step, problems = parse_step("affine", {"do": "channel_affine", "hold_out": 0.99})
    assert step is not None, problems
    (problem,) = step.check(work.config)
    assert isinstance(problem, Problem)
    assert is_about(problem, key="hold_out", value=0.99, valid=[])
