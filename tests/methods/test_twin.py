"""Twin uniform quantizers: values from the formulas, and OPT-m's choice against a brute-force search in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.errors import refuses
from vitq.quant.histogram import Histogram
from vitq.quant.layout import Axes, Layout
from vitq.quant.model import build
from vitq.quant.quantizer import Quantizer

GENERATOR = torch.Generator().manual_seed(11)
GELU = F.gelu(torch.randn(4, 40, 12, generator=GENERATOR) * torch.logspace(-1, 0.7, 12))
PROBS = torch.softmax(torch.randn(4, 3, 20, 20, generator=GENERATOR) * 3, dim=-1)
SHAPES = {"twin_uniform": GELU, "twin_softmax": PROBS}


def twin(name: str, bits: int = 4, granularity: str = "tensor", range_search: str = "mse", **options: Any) -> Quantizer:
    axes = Axes(-1, head=1, token=True) if name == "twin_softmax" else Axes(-1, token=True)
    return build(name, bits, axes, granularity, range_search, False, options)


def reference(name: str, x: Tensor, bits: int, coarse: float, m: int) -> Tensor:
    """x̂ in float64 from the regions' sets of values, by nearest value: no rounding formula in common with the code."""
    part, fine = 2 ** (bits - 1), coarse / 2**m
    codes = torch.arange(part, dtype=torch.float64)
    x = x.double()
    if name == "twin_uniform":
        negative = torch.cat([torch.zeros(1, dtype=torch.float64), -(codes + 1) * fine])
        return torch.where(x < 0, nearest(x, negative), nearest(x, codes * coarse))
    return nearest(x, torch.cat([codes * fine, codes * coarse]))


def nearest(x: Tensor, values: Tensor) -> Tensor:
    return values[(x.unsqueeze(-1) - values).abs().argmin(dim=-1)]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("bits", [2, 4, 6])
@pytest.mark.parametrize("m", [0, 2, 5, 9])
def test_values_are_those_of_the_two_regions(name: str, bits: int, m: int) -> None:
    x = SHAPES[name]
    quantizer = twin(name, bits, range_search="minmax", m=m)
    quantizer.fit_tensor(x)
    part = 2 ** (bits - 1)
    coarse = max(float(x.max()) / (part - 1), -float(x.min()) / part)
    assert float(quantizer.get_buffer("scale")[0]) == pytest.approx(coarse / 2**m, rel=1e-6)
    expected = reference(name, x, bits, coarse, m)
    # float32 may round the other way at a tie.
    assert float(((quantizer(x).double() - expected).abs() < 1e-5 * coarse).double().mean()) > 0.999
    levels = quantizer.levels()[0]
    regions = 2 * part if name == "twin_uniform" else len(set(levels.tolist()))
    assert len(set(levels.tolist())) == regions <= 2**bits, "b bits, no second zero where the sign is the region"


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("bits", [3, 4, 6])
def test_opt_m_is_the_minimum_of_a_brute_force_float64_search(name: str, bits: int) -> None:
    """All pairs of m in 0 … 15 and Δ on the 100-point grid, on the tensor itself."""
    x = SHAPES[name]
    quantizer = twin(name, bits)
    quantizer.fit_tensor(x)
    part = 2 ** (bits - 1)
    widest = max(float(x.max()) / (part - 1), -float(x.min()) / part)
    wide = x.double()
    errors = {
        (m, i): float((reference(name, x, bits, widest * i / 100, m) - wide).square().sum())
        for m in range(16)
        for i in range(1, 101)
    }
    m, fine = int(quantizer.get_buffer("exponent")[0]), float(quantizer.get_buffer("scale")[0])
    chosen = (m, round(fine * 2**m / widest * 100))
    assert errors[chosen] <= min(errors.values()) * (1 + 1e-6)
    assert float((quantizer(x).double() - wide).square().sum()) == pytest.approx(errors[chosen], rel=1e-4)
    assert m > 0, "the regions differ in these tensors, or nothing is proved"


@pytest.mark.parametrize("name", SHAPES)
def test_opt_m_on_the_streamed_distribution_is_its_minimum(name: str) -> None:
    """What calibration sees: two batches through a histogram; brute force over its bins, in float64."""
    x = SHAPES[name]
    quantizer, histogram = twin(name), Histogram()
    layout = Layout.of("tensor", quantizer.axes, tuple(x[:2].shape))
    for batch in x.split(2):
        histogram.update(batch, layout)
    distribution = histogram.distribution()
    assert distribution.counts is not None
    quantizer.fit(distribution, layout)
    widest = max(float(x.max()) / 7, -float(x.min()) / 8)
    values, counts = distribution.values[0].double(), distribution.counts[0]
    errors = {
        (m, i): float(((reference(name, values, 4, widest * i / 100, m) - values).square() * counts).sum())
        for m in range(16)
        for i in range(1, 101)
    }
    m, fine = int(quantizer.get_buffer("exponent")[0]), float(quantizer.get_buffer("scale")[0])
    assert errors[m, round(fine * 2**m / widest * 100)] <= min(errors.values()) * (1 + 1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_searching_m_is_at_least_as_good_as_every_fixed_m_and_beats_uniform(name: str) -> None:
    x = SHAPES[name]

    def error(quantizer: Quantizer) -> float:
        quantizer.fit_tensor(x)
        return float((quantizer(x) - x).double().square().sum())

    searched = error(twin(name))
    assert searched <= min(error(twin(name, m=m)) for m in range(16)) * (1 + 1e-6)
    assert searched < 0.95 * error(build("uniform", 4, Axes(-1), "tensor", "mse", True, {}))


def test_every_head_has_its_own_m() -> None:
    x = torch.stack([PROBS[:, 0], PROBS[:, 0] ** 6], dim=1)
    together = twin("twin_softmax", granularity="head")
    together.fit_tensor(x)
    for head in range(2):
        alone = twin("twin_softmax")
        alone.fit_tensor(x[:, head : head + 1])
        assert float(together.get_buffer("exponent")[head]) == float(alone.get_buffer("exponent")[0])
        assert torch.equal(together(x)[:, head], alone(x[:, head : head + 1])[:, 0])


def test_mistakes_are_named() -> None:
    for wrong in (-1, 16, 2.5, True, "auto"):
        with refuses(ValueError, key="options.m", value=wrong, valid=[0, 15, "search"]):
            twin("twin_uniform", m=wrong)
    with refuses(ValueError, key="quantizer", value=float(GELU.min())):
        twin("twin_softmax").fit_tensor(GELU)
