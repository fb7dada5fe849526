"""AdaLog's quantizer against the paper's formula in float64, its search against an exhaustive one, its folded shift."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.errors import refuses
from tests.tiny import run, tiny
from vitq.methods.adalog import AdaLogQuantizer
from vitq.quant.distribution import Distribution
from vitq.quant.histogram import Histogram
from vitq.quant.layout import Axes, Layout
from vitq.quant.model import build
from vitq.steps import Workspace

AXES = Axes(channel=-1, head=1, token=True)


def adalog(bits: int, x: Tensor, granularity: str = "tensor", range_: str = "mse", **options: Any) -> AdaLogQuantizer:
    quantizer = build("adalog", bits, AXES, granularity, range_, False, options)
    assert isinstance(quantizer, AdaLogQuantizer)
    quantizer.fit_tensor(x)
    return quantizer


def probabilities(seed: int = 0) -> Tensor:
    """Softmax of random scores, (B, heads, N, N)."""
    scores = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 3
    return scores.softmax(dim=-1)


def reference(value: float, bits: int, scale: float, q: int, shift: float, zero_code: bool, tables: str) -> float:
    """float64: code = round(−(r/q)·log2((x + shift)/s)); value = s·2^−⌊qc/r⌋·T[qc mod r] − shift."""
    r, codes = 37, 2**bits
    code = min(max(round(-r / q * math.log2(max(value + shift, 1e-30) / scale)), 0), codes - 1)
    if zero_code and code == codes - 1:
        return -shift
    remainder: float = 2 ** (-((q * code) % r) / r)
    if tables == "integer":
        remainder = round(remainder * (2 * codes - 2)) / (2 * codes - 2)
    value_of_code: float = scale * 2.0 ** -(q * code // r) * remainder - shift
    return value_of_code


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("zero_code", [False, True])
@pytest.mark.parametrize("tables", ["integer", "exact"])
@pytest.mark.parametrize("shift", [0.0, 0.17])
def test_values_are_those_of_the_float64_formula(bits: int, zero_code: bool, tables: str, shift: float) -> None:
    x = probabilities() if shift == 0 else F.gelu(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    quantizer = adalog(bits, x, zero_code=zero_code, tables=tables, shift=shift)
    scale, q = float(quantizer.scale[0]), int(quantizer.base[0])
    assert q == float(quantizer.base[0])
    assert 1 <= q <= 74
    ties = 0
    for value, got in zip(x.flatten().tolist(), quantizer(x).flatten().tolist(), strict=True):
        position = -37 / q * math.log2(max(value + shift, 1e-30) / scale)
        if abs(position - math.floor(position) - 0.5) < 1e-3:
            ties += 1  # float32 may round a tie to the other code
            continue
        assert got == pytest.approx(reference(value, bits, scale, q, shift, zero_code, tables), rel=1e-5, abs=1e-6)
    assert ties < 0.05 * x.numel()


def test_r_is_the_papers_and_base_two_is_q_equal_r() -> None:
    quantizer = adalog(4, probabilities(), tables="exact")
    quantizer.base.fill_(37.0)
    log2 = build("log2", 4, AXES, "tensor", "minmax", False, {})
    log2.fit_tensor(probabilities())
    quantizer.scale.copy_(log2.get_buffer("scale"))
    assert torch.allclose(quantizer(probabilities()), log2(probabilities()), rtol=1e-6)


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_the_search_beats_fixed_bases_and_comes_close_to_an_exhaustive_one(bits: int) -> None:
    x = probabilities(2)
    distribution = Distribution.from_rows(x.reshape(1, -1))

    def error(scale: float, q: int) -> float:
        fresh = AdaLogQuantizer(bits, "tensor", AXES, range_search="mse", tables="exact")
        columns = torch.tensor([[scale]]), torch.tensor([[float(q)]])
        return float(distribution.error(fresh._values(fresh._codes(distribution.values, *columns), *columns)))

    high = float(x.max())
    exhaustive = min(error(high * 2 ** (-0.02 * i), q) for i in range(100) for q in range(1, 75))
    found = adalog(bits, x, tables="exact")
    reached = float((found(x) - x).double().square().sum())
    assert reached <= 1.05 * exhaustive
    for name in ("log2", "log_sqrt2"):
        for range_ in ("minmax", "mse"):
            fixed = build(name, bits, AXES, "tensor", range_, False, {})
            fixed.fit_tensor(x)
            assert reached <= float((fixed(x) - x).double().square().sum()), (name, range_)
    at_the_maximum = adalog(bits, x, range_="minmax", tables="exact")
    assert float(at_the_maximum.scale) == high
    best = min(range(1, 75), key=lambda q: error(high, q))
    assert float(at_the_maximum.base) == best
    assert reached <= error(high, best)


def exhaustive(x: np.ndarray, bits: int, shift: float) -> tuple[float, float, int]:
    """(least squared error, scale, q) over q = 1 … 74 and scales of four octaves below the maximum, in float64."""
    found = (math.inf, 0.0, 0)
    for q in range(1, 75):
        for step in range(81):
            scale = (x.max() + shift) * 2 ** (-0.05 * step)
            with np.errstate(divide="ignore"):
                codes = np.clip(np.round(-37 / q * np.log2((x + shift) / scale)), 0, 2**bits - 1)
            error = float(np.square(scale * 2.0 ** (-q * codes / 37) - shift - x).sum())
            found = min(found, (error, scale, q))
    return found


@pytest.mark.parametrize("bits", [2, 3])
def test_very_heavy_tails_have_codes_two_octaves_apart(bits: int) -> None:
    """1, 1/4, 1/16 …, each 16 times as often as the one before, so that none can be given up: base 2^(74/37) = 4."""
    values = np.repeat(4.0 ** -np.arange(4), 16 ** np.arange(4)) * np.random.default_rng(0).uniform(0.9, 1, 4369)
    error, _, q = exhaustive(values, bits, 0.0)
    assert q > 55 or bits > 2, "more than an octave and a half for a code, or nothing is proved"
    x = torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)
    found = adalog(bits, x, tables="exact")
    assert float((found(x).double() - x.double()).square().sum()) <= 1.02 * error
    exact = torch.tensor(4.0 ** -np.arange(2**bits), dtype=torch.float32).repeat(3).view(1, 1, 1, -1)
    assert float(adalog(bits, exact, range_="minmax", tables="exact").base) == 74


@pytest.mark.parametrize("bits", [2, 3])
def test_with_a_shift_the_search_comes_close_to_an_exhaustive_one(bits: int) -> None:
    """Values after GELU that hardly exceed the shift: code 0 is the greatest of x + 0.17, and not of x."""
    x = F.gelu(torch.randn(1, 1, 50, 40, generator=torch.Generator().manual_seed(3)) * 0.3)
    error, _, _ = exhaustive(x.double().numpy().ravel(), bits, 0.17)
    found = adalog(bits, x, tables="exact", shift=0.17)
    assert float((found(x) - x).double().square().sum()) <= 1.02 * error
    assert float(adalog(bits, x, range_="minmax", shift=0.17).scale) == pytest.approx(float(x.max()) + 0.17, rel=1e-6)


def test_each_head_has_its_own_base() -> None:
    sharp, flat = (
        probabilities()[:, :1],
        torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(4)) * 0.3 + 0.1,
    )
    x = torch.cat([sharp, flat], dim=1)
    both = adalog(4, x, "head")
    assert both.base.shape == (2,)
    assert float(both.base[0]) > float(both.base[1]), "values within an octave or two want finer steps"
    for head, part in ((0, sharp), (1, flat)):
        alone = adalog(4, part)
        assert (float(alone.scale), float(alone.base)) == (float(both.scale[head]), float(both.base[head]))


def test_a_streamed_distribution_gives_nearly_the_same_error() -> None:
    x = probabilities(5)
    exact, streamed = adalog(4, x), adalog(4, x)
    histogram, layout = Histogram(), Layout.of("tensor", AXES, tuple(x.shape))
    for batch in x:
        histogram.update(batch.unsqueeze(0), layout)
    streamed.fit(histogram.distribution(), layout)
    errors = [float((quantizer(x) - x).square().sum()) for quantizer in (exact, streamed)]
    assert errors[1] <= 1.05 * errors[0]


def test_the_shift_folds_into_the_next_bias_exactly() -> None:
    """W·x̂ + b with x̂ = x̂' − shift is W·x̂' + (b − shift·W·1): also with quantized weights."""
    generator = torch.Generator().manual_seed(6)
    x = F.gelu(torch.randn(4, 10, 24, generator=generator) * 2)
    weight, bias = torch.randn(7, 24, generator=generator), torch.randn(7, generator=generator)
    rows = build("uniform", 4, Axes(channel=0, weight=True), "channel", "mse", False, {})
    rows.fit_tensor(weight)
    weight = rows(weight)
    quantizer = adalog(4, x, shift=0.17)
    codes = quantizer.encode(x)
    unshifted = quantizer.decode(codes).double() + 0.17
    folded = F.linear(unshifted, weight.double(), quantizer.folded_bias(weight.double(), bias.double()))
    assert torch.allclose(folded, F.linear(quantizer(x).double(), weight.double(), bias.double()), atol=1e-6)
    alone = F.linear(unshifted, weight.double(), quantizer.folded_bias(weight.double(), None))
    assert torch.allclose(alone, F.linear(quantizer(x).double(), weight.double()), atol=1e-6)


def test_gelus_least_value_is_inside_the_shift() -> None:
    x = torch.linspace(-8, 8, 20001)
    assert -0.17 < float(F.gelu(x).min()) < -0.1699
    with refuses(ValueError, key="quantizer"):
        adalog(4, F.gelu(x).view(1, 1, 1, -1))


def test_wrong_options_are_refused() -> None:
    with refuses(ValueError, key="options.tables", value="rounded", valid=["integer"]):
        adalog(4, probabilities(), tables="rounded")
    with refuses(ValueError, key="options.resolution", value=0):
        adalog(4, probabilities(), resolution=0)
    with refuses(ValueError, key="options.shift", value=-1):
        adalog(4, probabilities(), shift=-1)
    with refuses(ValueError, key="options.levels", value="public", valid=["strict"]):
        adalog(4, probabilities(), levels="public", zero_code=True)
    with refuses(ValueError, key="options.candidates", value="candidates", valid=["tables"]):
        adalog(4, probabilities(), candidates=7)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_the_recipe_runs_on_both_families(workspace: Callable[..., Workspace], family: str) -> None:
    method = {
        "kinds": {
            "probs": {"quantizer": "adalog", "granularity": "head", "range": "mse"},
            "post_gelu": {"quantizer": "adalog", "range": "mse", "options": {"shift": 0.17}},
            "default": {"quantizer": "uniform", "range": "mse"},
        }
    }
    work = workspace(tiny(family), method, activation=4, weight=4)
    run(work, {"do": "calibrate"})
    assert all(site.on for site in work.model.quantized())
    shifted = [s for s in work.model.quantized() if s.kind == "post_gelu"]
    assert shifted
    with torch.no_grad():
        assert torch.isfinite(work.model(next(iter(work.batches())))).all()
