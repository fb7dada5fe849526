"""Closed-form weights: every part lowers what it is to lower, and what it leaves lies on the grid."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import linear, run, seen, tiny, uniform
from vitq.config import RunConfig
from vitq.methods.erq import aqer
from vitq.methods.gptq import solve
from vitq.methods.least_squares import LeastSquares, cost, descend, fit_ranges, moments, refit
from vitq.quant.layout import Axes
from vitq.quant.uniform import UniformQuantizer
from vitq.steps import Workspace
from vitq.steps.layer_walk import quantized_walk
from vitq.steps.weight_grid import Grid

METHOD: dict[str, Any] = {
    "kinds": {
        "weight": {"quantizer": "uniform", "granularity": "channel", "range": "mse"},
        "default": {"quantizer": "uniform", "granularity": "tensor", "range": "mse"},
    },
    "steps": {},
}
CALIBRATE = {"do": "calibrate", "sites": "activations", "input": "quantized"}


def problem(rows: int = 6, inputs: int = 24, bits: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Grid]:
    """A weight, the Gram matrix of correlated inputs, and the grid of the full range."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, inputs, generator=generator).double()
    mixing = torch.randn(inputs, inputs, generator=generator).double()
    x = torch.randn(200, inputs, generator=generator).double() @ (mixing * 0.4 + torch.eye(inputs))
    quantizer = UniformQuantizer(bits, "channel", Axes(0, weight=True), range_search="minmax")
    quantizer.fit_tensor(weight.float())
    return weight, x.T @ x + torch.eye(inputs), Grid.of(quantizer, weight.float())


@pytest.mark.parametrize("seed", range(4))
def test_each_part_lowers_the_error_of_every_row(seed: int) -> None:
    weight, gram, grid = problem(seed=seed)
    rounded = solve(weight, gram, grid, damping=0.0, act_order=True)
    before = cost(rounded - weight, gram)
    ranged, narrowed = fit_ranges(weight, gram, grid, rounded, 8)
    after = cost(ranged - weight, gram)
    assert bool((after <= before).all())
    assert after.sum() < 0.9 * before.sum()
    for _ in range(3):
        swept = descend(weight, gram, narrowed, ranged)
        assert bool((cost(swept - weight, gram) <= after + 1e-9).all())
        after = cost(swept - weight, gram)
        narrowed, ranged = refit(weight, gram, narrowed, swept)
        assert bool((cost(ranged - weight, gram) <= after + 1e-9).all())
        after = cost(ranged - weight, gram)
        codes = ranged / narrowed.scale + narrowed.zero
        assert torch.allclose(codes, codes.round(), atol=1e-6)
        assert bool(((codes > -0.5) & (codes < 7.5)).all())


def test_descent_ends_where_no_single_code_is_better() -> None:
    weight, gram, grid = problem(rows=4, inputs=10)
    rounded = grid.decode(grid.encode(weight))
    for _ in range(20):
        rounded = descend(weight, gram, grid, rounded)
    least = cost(rounded - weight, gram)
    for column, code in itertools.product(range(10), range(8)):
        other = rounded.clone()
        other[:, column] = grid.decode(torch.full_like(other, code))[:, column]
        assert bool((cost(other - weight, gram) >= least - 1e-9).all())


def test_refit_is_the_least_squares_scale() -> None:
    weight, gram, grid = problem()
    rounded = grid.decode(grid.encode(weight))
    better, values = refit(weight, gram, grid, rounded)
    least = cost(values - weight, gram)
    for factor in (0.99, 1.01):
        assert bool((cost(values * factor - weight, gram) > least).all())
    assert torch.equal(better.zero, grid.zero)


@torch.no_grad()
def test_moments_are_those_of_the_layer(workspace: Callable[..., Workspace]) -> None:
    work = workspace(tiny("vit"), METHOD, weight=4, activation=4)
    run(work, CALIBRATE)
    walk, layer = quantized_walk(work), linear(work, "blocks.0.attn.qkv")
    walk.advance()
    walk.enter(1)
    site = layer.input_site
    found = moments(layer, "blocks.0.attn.qkv", walk)
    x = seen(work, "blocks.0.attn.qkv")
    noisy = site(x.float()).double()
    assert found.count == len(x)
    assert torch.allclose(found.square, noisy.T @ noisy, rtol=1e-4, atol=1e-3)
    assert torch.allclose(found.cross, (x - noisy).T @ noisy, rtol=1e-3, atol=1e-2)
    assert torch.allclose(found.mean, noisy.mean(0), atol=1e-5)
    assert torch.allclose(found.difference, (x - noisy).mean(0), atol=1e-5)
    # The normal equations of the regression with an intercept, solved another way.
    weight, penalty = layer.weight.double(), 10.0
    change, shift = aqer(weight, found, penalty, bias=True)
    design = torch.cat([noisy - noisy.mean(0), penalty**0.5 * torch.eye(noisy.shape[1], dtype=torch.float64)])
    error = (x - noisy) - (x - noisy).mean(0)
    target = torch.cat([error @ weight.T, torch.zeros(noisy.shape[1], len(weight), dtype=torch.float64)])
    expected = torch.linalg.lstsq(design, target).solution.T
    assert torch.allclose(change - weight, expected, rtol=1e-3, atol=1e-4)
    assert torch.allclose(shift, weight @ found.difference - expected @ found.mean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["vit", "swin"])
@torch.no_grad()
def test_the_network_is_nearer_to_full_precision(workspace: Callable[..., Workspace], family: str) -> None:
    def error(*steps: dict[str, Any]) -> float:
        work = workspace(tiny(family), METHOD, weight=3, activation=8)
        exact = work.teach(torch.cat(list(work.batches())))
        run(work, CALIBRATE, *steps)
        for site in work.model.quantized():
            assert site.on
            if site.is_weight:
                weight = work.model.layer(site).weight
                assert torch.equal(site.quantizer(weight), weight) == bool(steps[0]["do"] == "least_squares")  # type: ignore[misc]
                assert site.quantizer.encode(weight).unique().max() < 8  # type: ignore[union-attr]
        return float((work.model(torch.cat(list(work.batches()))) - exact).square().mean())

    nearest = error({"do": "calibrate", "sites": "weights"})
    plain = error(
        {"do": "least_squares", "regress": False, "ranges": 0, "sweeps": 0, "penalty": 1.0, "penalty_head": 1.0}
    )
    whole = error({"do": "least_squares", "penalty": 1.0, "penalty_head": 1.0})
    assert whole < plain < nearest


@torch.no_grad()
def test_the_mean_goes_into_the_bias(workspace: Callable[..., Workspace]) -> None:
    work = workspace(tiny("vit"), METHOD, weight=2, activation=8)
    run(work, CALIBRATE)
    walk, name = quantized_walk(work), "blocks.0.attn.qkv"
    walk.advance()
    walk.enter(1)
    layer = linear(work, name)
    rows = torch.cat([x.flatten(0, 1) for x in walk.arriving(f"{name}.input_site")])
    before = layer.weight.double() @ rows.double().mean(0) + layer.bias.double()
    LeastSquares(do="least_squares")._update(layer, moments(layer, name, walk), 1000.0)
    after = layer.weight.double() @ layer.input_site(rows).double().mean(0) + layer.bias.double()
    assert torch.allclose(before, after, atol=1e-4)
    assert uniform(work, f"{name}.weight").fitted


def test_problems_are_found_in_the_plan() -> None:
    def found(kind: dict[str, Any], **options: Any) -> list[tuple[str, object]]:
        method = {"name": "t", "kinds": {"weight": {"quantizer": "uniform", "granularity": "channel", **kind}}}
        config, problems = RunConfig.parse({"model": {"name": "tiny"}, "data": {"name": "random"}, "method": method})
        assert config is not None, problems
        return [(p.key, p.value) for p in LeastSquares(do="least_squares", **options).check(config)]

    assert found({}) == []
    assert found({"granularity": "tensor"}) == [("", ("uniform", "tensor"))]
    assert found({"quantizer": "dual_uniform"}) == [("", ("dual_uniform", "channel"))]
    assert found({}, penalty=0.0, sweeps=-1) == [("penalty", 0.0), ("sweeps", -1)]
