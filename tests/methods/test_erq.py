"""ERQ's solvers: the ridge updates are the closed form, refinement descends, each part lowers its own error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import part, tiny
from vitq.methods import erq
from vitq.quant.layout import Axes
from vitq.quant.model import build
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.weight_grid import Grid, add_bias


def grid_of(weight: Tensor, bits: int = 3) -> Grid:
    quantizer = build("uniform", bits, Axes(0, weight=True), "channel", "percentile", False, {})
    assert isinstance(quantizer, UniformQuantizer)
    quantizer.fit_tensor(weight.float())
    return Grid.of(quantizer, weight.float())


def data(rows: int = 7, inputs: int = 11, count: int = 80) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, x and x̄ as (count, inputs), float64; x̄ is x rounded coarsely."""
    random = torch.Generator().manual_seed(1)
    mix = torch.randn(inputs, inputs, generator=random).double()
    x = torch.randn(count, inputs, generator=random).double() @ mix + 0.7
    return torch.randn(rows, inputs, generator=random).double(), x, torch.round(x / 1.5) * 1.5


def seen(x: Tensor, noisy: Tensor) -> erq.Moments:
    error = x - noisy
    return erq.Moments(noisy.T @ noisy, error.T @ noisy, noisy.mean(0), error.mean(0), len(x))


def mse(weight: Tensor, shift: Tensor | float, target: Tensor, noisy: Tensor) -> float:
    return float((noisy @ weight.T + shift - target).square().mean())


@pytest.mark.parametrize("penalty", [0.1, 30.0])
@pytest.mark.parametrize("bias", [False, True])
def test_aqer_equals_least_squares_and_lowers_the_output_error(bias: bool, penalty: float) -> None:
    """The reference solves the stacked system [X̄ 1; √λ·I 0]·[δW δb]ᵀ = [(W·(x − x̄))ᵀ; 0]."""
    weight, x, noisy = data()
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    ridge = penalty**0.5 * torch.eye(11, dtype=torch.float64)
    left = torch.cat([torch.cat([noisy, ones * bias], 1), torch.cat([ridge, torch.zeros(11, 1)], 1)])
    right = torch.cat([(x - noisy) @ weight.T, torch.zeros(11, 7)])
    solution = torch.linalg.lstsq(left if bias else left[:, :-1], right).solution
    expected = weight + solution[:11].T
    found, shift = erq.aqer(weight, seen(x, noisy), penalty, bias)
    assert torch.allclose(found, expected, atol=1e-9)
    assert torch.allclose(shift, solution[11] if bias else torch.zeros(7, dtype=torch.float64), atol=1e-9)
    target = x @ weight.T
    assert mse(found, shift, target, noisy) < 0.95 * mse(weight, 0.0, target, noisy)


def flip_by_hand(weight: Tensor, gram: Tensor, grid: Grid, flips: int, choose: str) -> Tensor:
    """The paper's rounding refinement, one row and one flip at a time."""
    out = torch.empty_like(weight)
    for row in range(len(weight)):
        w, s, z = weight[row], grid.scale[row], grid.zero[row]
        nearest = (torch.round(w / s) + z).clamp(0, grid.codes - 1)
        other = nearest + torch.where((nearest - z) * s > w, -1.0, 1.0)
        valid = (other >= 0) & (other < grid.codes)
        codes, spare = nearest.clone(), other.clone()
        for _ in range(flips):
            delta = (codes - z) * s - w
            proxy = float(delta @ gram @ delta)
            gradient = 2 * gram @ delta
            proxies = []
            for j in range(len(w)):
                flipped = delta.clone()
                flipped[j] += (spare[j] - codes[j]) * s[j]
                proxies.append(float(flipped @ gram @ flipped))
            against = valid & ((spare - codes) * gradient < 0)
            if choose == "gradient":
                score = torch.where(against, gradient.abs(), -1.0)
            else:
                score = torch.where(valid, -torch.tensor(proxies).double(), -torch.inf)
            j = int(score.argmax())
            if not bool(valid[j]) or (choose == "gradient" and not bool(against[j])) or proxies[j] >= proxy:
                break
            codes[j], spare[j] = spare[j].clone(), codes[j].clone()
        out[row] = (codes - z) * s
    return out


@pytest.mark.parametrize("choose", ["gradient", "decrease"])
@pytest.mark.parametrize("flips", [1, 2, 100])
def test_refinement_equals_the_reference_and_descends(choose: str, flips: int) -> None:
    weight, _, noisy = data(rows=20)
    weight[0] *= 3  # clipped weights have no second neighbour
    gram, grid = noisy.T @ noisy, grid_of(data(rows=20)[0])
    found = erq.refine(weight, gram, grid, flips, choose)
    assert torch.allclose(found, flip_by_hand(weight, gram, grid, flips, choose), atol=1e-9)
    codes = grid.encode(found)
    assert torch.allclose(grid.decode(codes), found)
    nearest = grid.decode(grid.encode(weight))
    assert int(((found - nearest).abs() > 1e-9).sum(dim=1).max()) <= flips
    proxy = [(((w - weight) @ gram) * (w - weight)).sum(dim=1) for w in (found, nearest)]
    assert bool((proxy[0] <= proxy[1]).all())
    assert float(proxy[0][1:].sum()) < 0.9 * float(proxy[1][1:].sum())


def test_a_mean_error_goes_to_the_bias_where_there_is_one_to_take() -> None:
    layer: Any = part(tiny("swin"), "layers.1.downsample.reduction")
    add_bias(layer, torch.zeros(32, dtype=torch.float64))
    assert not isinstance(layer.bias, Tensor), "nothing to take"
    for _ in range(2):
        add_bias(layer, torch.full((32,), 0.5, dtype=torch.float64))
    assert layer.bias.tolist() == [1.0] * 32


@torch.no_grad()
def test_the_proxy_is_mean_and_covariance() -> None:
    """Σx̄x̄ᵀ/n = μμᵀ + Σ: the proxy is the mean squared output error."""
    _, _, noisy = data()
    mean = noisy.mean(0)
    expected = torch.outer(mean, mean) + torch.cov(noisy.T, correction=0)
    moments = seen(noisy, noisy)
    assert torch.allclose(moments.gram(centred=False) / len(noisy), expected)
    assert torch.allclose(moments.gram(centred=True) / len(noisy), torch.cov(noisy.T, correction=0))


@pytest.mark.parametrize("penalty", [None, 5.0])
@pytest.mark.parametrize("flips", [0, 100])
def test_wqer_equals_the_reference(penalty: float | None, flips: int) -> None:
    """Halves 6, 3, 1, 1 of 11 channels; after each, least squares on the data moves those that are left."""
    weight, _, noisy = data()
    grid = grid_of(weight)
    found = erq.wqer(weight, noisy.T @ noisy, grid, penalty, flips, "gradient")
    expected, start = weight.clone(), 0
    for size in (6, 3, 1, 1):
        here, later = torch.arange(start, start + size), torch.arange(start + size, 11)
        start += size
        part_of = noisy[:, here]
        rounded = flip_by_hand(expected[:, here], part_of.T @ part_of, grid.columns(here), flips, "gradient")
        if penalty is not None and len(later):
            left = torch.cat([noisy[:, later], penalty**0.5 * torch.eye(len(later), dtype=torch.float64)])
            pushed = noisy[:, here] @ (rounded - expected[:, here]).T
            right = torch.cat([-pushed, torch.zeros(len(later), 7)])
            expected[:, later] += torch.linalg.lstsq(left, right).solution.T
        expected[:, here] = rounded
    assert torch.allclose(found, expected, atol=1e-8)


def test_each_part_of_wqer_lowers_the_output_error() -> None:
    weight, _, noisy = data(64, 48, 400)
    gram, grid = noisy.T @ noisy, grid_of(weight)
    target = noisy @ weight.T
    nearest, refined, ridged, both = (
        mse(erq.wqer(weight, gram, grid, penalty, flips, "gradient"), 0.0, target, noisy)
        for penalty, flips in ((None, 0), (None, 100), (1.0, 0), (1.0, 100))
    )
    assert refined < 0.95 * nearest
    assert ridged < 0.8 * nearest
    assert both < ridged
