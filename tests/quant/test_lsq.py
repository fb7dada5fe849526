"""Learned scales and zero points: their gradients are LSQ's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitq.quant.dual import DualLayout, DualUniformQuantizer
from vitq.quant.layout import Axes
from vitq.quant.learned import LearnedRange
from vitq.quant.model import build
from vitq.quant.uniform import UniformQuantizer


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
    learned = LearnedRange(quantizer, scale=True, zero_point=True, batched=batched)
    scale, zero = quantizer.scale, quantizer.zero_point
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    leaf = x.clone().requires_grad_(True)
    out = learned(leaf)
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


def test_a_zero_point_that_is_not_learned_stays_between_two_codes() -> None:
    """What is learned through is what is evaluated: `reparameterize` with zero_point=mean leaves a fraction."""
    quantizer = build("uniform", 3, Axes(-1, token=True), "tensor", "minmax", False, {})
    assert isinstance(quantizer, UniformQuantizer)
    x = torch.linspace(-3, 3, 101).view(1, -1, 1)
    quantizer.fit_tensor(x)
    quantizer.assign(quantizer.layout, torch.tensor([0.5]), torch.tensor([3.45]))
    plain = quantizer(x)
    learned = LearnedRange(quantizer, scale=True, zero_point=False, batched=True)
    assert torch.equal(learned(x).detach(), plain)
    learned.settle()
    assert torch.equal(quantizer(x), plain)


@pytest.mark.parametrize(("granularity", "dimension"), [("channel", 3), ("head", 1)])
def test_the_factor_of_a_group_counts_the_groups_own_features(granularity: str, dimension: int) -> None:
    """n of LSQ's 1/√(n·Q) is what shares one scale: the features of one image in that channel or head."""
    x = torch.randn(4, 3, 9, 6, generator=torch.Generator().manual_seed(1))
    quantizer = build("uniform", 4, Axes(-1, head=1, token=True), granularity, "minmax", False, {})
    assert isinstance(quantizer, UniformQuantizer)
    quantizer.fit_tensor(x * 0.6)  # so that some values are clipped
    scales, zeros = quantizer.scale.tolist(), quantizer.zero_point.tolist()
    learned = LearnedRange(quantizer, scale=True, zero_point=False, batched=True)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    (learned(x) * upstream).sum().backward()
    gradient = quantizer.scale.grad
    assert gradient is not None
    assert len(scales) == x.shape[dimension]
    features = x[0].numel() / len(scales)
    for group, (scale, zero) in enumerate(zip(scales, zeros, strict=True)):
        _, ds, _ = lsq_reference(x.select(dimension, group), scale, zero, 16)
        expected = float((ds * upstream.select(dimension, group)).sum()) * (features * 15) ** -0.5
        assert float(gradient[group]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["scale", "zero_point", "x"])
def test_the_codes_gradient_is_the_slope_of_the_surrogate(name: str) -> None:
    """Finite differences in float64 of Σ u·s·(clamp(c + x/s + z, 0, Q) − z), its rounding offset c frozen."""
    x = torch.randn(64, generator=torch.Generator().manual_seed(0))
    u = torch.randn(64, generator=torch.Generator().manual_seed(1))
    quantizer = build("uniform", 4, Axes(-1), "tensor", "minmax", False, {})
    assert isinstance(quantizer, UniformQuantizer)
    quantizer.fit_tensor(x * 0.6)
    scale, zero, top, h = float(quantizer.scale), float(quantizer.zero_point), 15, 1e-6
    code = torch.round(x.double() / scale) + zero
    u[(code == 0) | (code == top)] = 0  # the surrogate has a kink where clipping begins
    assert int((u != 0).sum()) > 30
    assert int(((code < 0) | (code > top)).sum()) > 3
    offset = torch.round(x.double() / scale) - x.double() / scale
    at = {"x": x.double(), "scale": torch.tensor(scale).double(), "zero_point": torch.tensor(zero).double()}

    def surrogate(moved: Tensor) -> Tensor:
        values, s, z = (moved if part == name else value for part, value in at.items())
        return u.double() * s * ((values / s + offset + z).clamp(0, top) - z)

    slope = (surrogate(at[name] + h) - surrogate(at[name] - h)) / (2 * h)
    learned = LearnedRange(quantizer, scale=True, zero_point=True, batched=False)
    leaf = x.clone().requires_grad_(True)
    (learned(leaf) * u).sum().backward()
    factor = (64 * 15) ** -0.5  # LSQ, section 2.2
    found = {"x": leaf.grad, "scale": quantizer.scale.grad, "zero_point": quantizer.zero_point.grad}[name]
    assert found is not None
    expected = slope if name == "x" else slope.sum().view(1) * factor
    assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("learned", "kept"), [(5.7, 6.0), (5.3, 5.0), (-0.6, -1.0)])
def test_freezing_rounds_zero_points_and_keeps_scales_positive(learned: float, kept: float) -> None:
    quantizer = build("uniform", 4, Axes(-1), "tensor", "minmax", False, {})
    assert isinstance(quantizer, UniformQuantizer)
    quantizer.fit_tensor(torch.linspace(-1, 2, 16).view(1, 16))
    stand_in = LearnedRange(quantizer, scale=True, zero_point=True, batched=False)
    with torch.no_grad():
        quantizer.scale.fill_(-0.25)
        quantizer.zero_point.fill_(learned)
    stand_in.settle()
    assert float(quantizer.zero_point) == kept
    assert float(quantizer.scale) == 0.25
    assert not quantizer.scale.requires_grad
    assert quantizer(torch.tensor([[0.6]])).tolist() == [[0.5]], "what the frozen numbers say"


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_clipped_values_pass_no_gradient(granularity: str) -> None:
    x = torch.tensor([[[-9.0, 0.1, 0.2, 9.0]]], requires_grad=True)
    quantizer = build("uniform", 4, Axes(-1, token=True), granularity, "minmax", False, {})
    quantizer.fit_tensor(torch.tensor([[[-1.0, -1.0, -1.0, -1.0]], [[1.0, 1.0, 1.0, 1.0]]]))
    quantizer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0, 1, 1, 0]


def test_the_factor_of_a_weight_with_two_ranges_counts_half_a_row() -> None:
    """Both groups of a row together have its inputs."""
    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
    weight[:, 3] *= 20
    quantizer = build("dual_uniform", 4, Axes(0, weight=True), "channel", "minmax", False, {})
    assert isinstance(quantizer, DualUniformQuantizer)
    quantizer.fit_tensor(weight)
    scales, zeros, layout = quantizer.scale.clone(), quantizer.zero_point.clone(), quantizer.layout
    assert isinstance(layout, DualLayout)
    learned = LearnedRange(quantizer, scale=True, zero_point=False, batched=False)
    learned(weight).sum().backward()
    assert quantizer.scale.grad is not None
    slopes = torch.zeros(12, dtype=torch.float64)
    for row, column in torch.cartesian_prod(torch.arange(6), torch.arange(32)).tolist():
        group = 2 * row + (column in layout.columns())
        _, ds, _ = lsq_reference(weight[row, column], float(scales[group]), float(zeros[group]), 16)
        slopes[group] += ds
    assert torch.allclose(quantizer.scale.grad.double(), slopes * (16 * 15) ** -0.5, atol=1e-5)
