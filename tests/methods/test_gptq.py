"""GPTQ: the optimal-brain recursion, better than rounding to nearest on its own objective."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.errors import is_about, refuses
from tests.tiny import images, part, run, tiny, uniform
from vitq.config import RunConfig
from vitq.engine import recipe_checks
from vitq.errors import Problem
from vitq.methods import gptq
from vitq.quant.layout import Axes
from vitq.quant.model import build
from vitq.quant.uniform import UniformQuantizer
from vitq.steps import Workspace
from vitq.steps.layer_walk import quantized_walk
from vitq.steps.weight_grid import Grid, as_rows

Make = Callable[..., Workspace]
UNIFORM = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}
CALIBRATE = {"do": "calibrate"}


def problem(rows: int = 6, inputs: int = 9, bits: int = 3, granularity: str = "channel") -> tuple[Tensor, Tensor, Grid]:
    """Weight, second moments of correlated inputs, grid."""
    random = torch.Generator().manual_seed(rows * inputs)
    x = (
        torch.randn(60, inputs, generator=random).double() @ torch.randn(inputs, inputs, generator=random).double()
        + 0.5
    )
    weight = torch.randn(rows, inputs, generator=random)
    quantizer = build("uniform", bits, Axes(0, weight=True), granularity, "minmax", False, {})
    assert isinstance(quantizer, UniformQuantizer)
    quantizer.fit_tensor(weight)
    return weight.double(), x.T @ x / len(x), Grid.of(quantizer, weight)


def objective(weight: Tensor, quantized: Tensor, H: Tensor) -> float:
    error = quantized - weight
    return float(((error @ H) * error).sum())


def optimal_brain(weight: Tensor, H: Tensor, grid: Grid, damping: float, order: list[int]) -> Tensor:
    """OBQ's recursion with a given order, one row at a time (Frantar & Alistarh 2022, eq. 2–4).

    Weight p is rounded, the rest moves by −(w_p − ŵ_p)/[H⁻¹]_pp·[H⁻¹]_:p, and p is eliminated from H⁻¹.
    """
    H = H + damping * H.diagonal().mean() * torch.eye(len(H), dtype=torch.float64)
    out = weight.clone()
    for row in range(len(weight)):
        inverse = torch.linalg.inv(H)
        w = weight[row].clone()
        for p in order:
            code = (torch.round(w[p] / grid.scale[row, p]) + grid.zero[row, p]).clamp(0, grid.codes - 1)
            rounded = (code - grid.zero[row, p]) * grid.scale[row, p]
            move = -(w[p] - rounded) / inverse[p, p] * inverse[:, p]
            out[row, p] = rounded
            w = w + move
            inverse = inverse - torch.outer(inverse[:, p], inverse[p]) / inverse[p, p]
            inverse[p, p] = 1.0  # eliminated; never read again
    return out


@pytest.mark.parametrize("granularity", ["channel", "tensor", "group:3"])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("block", [1, 4, 128])
def test_it_equals_the_optimal_brain_recursion(granularity: str, act_order: bool, block: int) -> None:
    weight, H, grid = problem(granularity=granularity)
    order = H.diagonal().argsort(descending=True).tolist() if act_order else list(range(len(H)))
    expected = optimal_brain(weight, H, grid, 0.01, order)
    found = gptq.solve(weight, H, grid, damping=0.01, act_order=act_order, block=block)
    assert torch.equal(grid.encode(found), grid.encode(expected))
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_it_beats_rounding_to_nearest(bits: int, act_order: bool) -> None:
    weight, H, grid = problem(64, 48, bits)
    nearest = objective(weight, grid.decode(grid.encode(weight)), H)
    assert objective(weight, gptq.solve(weight, H, grid, act_order=act_order), H) < 0.7 * nearest


def test_uncorrelated_inputs_leave_rounding_to_nearest() -> None:
    weight, _, grid = problem()
    found = gptq.solve(weight, torch.eye(9, dtype=torch.float64), grid, damping=0.0)
    assert torch.allclose(found, grid.decode(grid.encode(weight)))


def test_a_dead_input_is_ordinary_and_a_singular_hessian_is_refused() -> None:
    weight, H, grid = problem()
    H[4], H[:, 4] = 0, 0
    found = gptq.solve(weight, H, grid, damping=0.0)
    nearest = grid.decode(grid.encode(weight))
    assert torch.equal(found[:, 4], nearest[:, 4])
    assert torch.isfinite(found).all()
    with refuses(ValueError, key="damping", value=len(H)):
        gptq.solve(weight, torch.ones_like(H), grid, damping=0.0)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_every_layer_of_a_model(workspace: Make, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer gains on its own objective, lies on its grid, and keeps its scales."""
    solved: list[tuple[float, float]] = []
    solve = gptq.solve

    def watched(weight: Tensor, H: Tensor, grid: Grid, *more: Any) -> Tensor:
        found = solve(weight, H, grid, *more)
        solved.append((objective(weight, found, H), objective(weight, grid.decode(grid.encode(weight)), H)))
        return found

    monkeypatch.setattr(gptq, "solve", watched)
    work = workspace(tiny(family), UNIFORM, weight=3, activation=4)
    run(work, CALIBRATE)
    before = {s.name: uniform(work, s.name).scale.clone() for s in work.model.quantized()}
    run(work, {"do": "gptq"})
    assert len(solved) == len(work.model.structure.inputs)
    assert all(found < nearest for found, nearest in solved)
    for site in work.model.quantized():
        assert torch.equal(uniform(work, site.name).scale, before[site.name])
        if site.is_weight:
            weight = work.model.layer(site).weight
            assert torch.equal(uniform(work, site.name)(weight), weight), f"{site.name} is not on its grid"


def test_the_steps_options_reach_the_solver(workspace: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every layer; what they do there the recursion above shows."""
    solve, found = gptq.solve, []

    def watched(*args: Any, **options: Any) -> Tensor:
        given = inspect.signature(solve).bind(*args, **options).arguments
        found.append({name: given.get(name) for name in ("damping", "act_order", "block")})
        return solve(*args, **options)

    monkeypatch.setattr(gptq, "solve", watched)
    work = workspace(tiny("vit"), UNIFORM, weight=3, activation=4)
    options = {"damping": 0.02, "act_order": True, "block": 16}
    run(work, CALIBRATE, {"do": "gptq", **options})
    assert found == [options] * len(work.model.structure.inputs)


@torch.no_grad()
def test_the_hessian_is_that_of_all_quantized_inputs(workspace: Make) -> None:
    work = workspace(tiny("vit"), UNIFORM, images=20, weight=4, activation=4)
    run(work, CALIBRATE)
    layer = part(work.model.model, "patch_embed.proj")
    walk = quantized_walk(work)
    patches = images(work).double().unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(-1, 192)
    expected = patches.T @ patches / len(patches)
    assert torch.allclose(gptq.hessian(walk, layer, "patch_embed.proj"), expected, atol=1e-5)
    walk.advance()
    walk.enter(1)
    block, tokens = part(work.model.model, "blocks.0"), work.model.structure.segments[0].forward(images(work))
    rows = block.attn.qkv.input_site(block.norm1(tokens)).reshape(-1, 48).double()
    found = gptq.hessian(walk, block.attn.qkv, "blocks.0.attn.qkv")
    assert torch.allclose(found, rows.T @ rows / len(rows), atol=1e-5)


@torch.no_grad()
def test_rows_of_a_convolution_are_its_patches() -> None:
    layer: Any = part(tiny("swin"), "patch_embed.proj")
    for stride, padding in ((2, 0), (1, 1)):
        layer.stride, layer.padding = (stride, stride), (padding, padding)
        x = torch.randn(2, 3, 8, 8)
        rows = as_rows(layer, x) @ layer.weight.flatten(1).T + layer.bias
        expected = F.conv2d(x, layer.weight, layer.bias, stride, padding).permute(0, 2, 3, 1).reshape(len(rows), -1)
        assert torch.allclose(rows, expected, atol=1e-5)
    layer.groups = 3
    with refuses(ValueError, key="layer", value=(3, (1, 1), "zeros")):
        as_rows(layer, x)


def test_options_are_checked_before_anything_starts() -> None:
    def found(weight: str, **options: Any) -> list[Problem]:
        kinds = {"weight": {"quantizer": weight}, "default": {}}
        method = {"name": "x", "kinds": kinds, "steps": {"all": CALIBRATE, "gptq": {"do": "gptq", **options}}}
        config, problems = RunConfig.parse({"model": {"name": "m"}, "data": {"name": "d"}, "method": method})
        assert config is not None, problems
        return recipe_checks.problems(config)

    assert found("uniform") == []
    assert any(is_about(problem, "method.steps.gptq", "log2", ["uniform"]) for problem in found("log2"))
    assert any(is_about(p, "method.steps.gptq.damping", -1.0) for p in found("uniform", damping=-1))
    assert any(is_about(p, "method.steps.gptq.block", 0) for p in found("uniform", block=0))
