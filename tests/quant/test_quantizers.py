"""Properties that every quantizer has, whatever the tensor, the bit-width and the granularity."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.errors import refuses
from vitq.quant.layout import Axes
from vitq.quant.model import build
from vitq.quant.quantizer import NON_NEGATIVE, QUANTIZERS, Quantizer

# Quantizers that these properties cannot be asked of, and where they are tested instead.
ELSEWHERE = {"dual_uniform": "fits matrices alone, weights of linear layers: test_dual.py"}
NAMES = sorted(name for name in QUANTIZERS if QUANTIZERS[name].__module__.startswith("vitq.") and name not in ELSEWHERE)
# Does it take negative values? One that serves non-negative kinds alone does not.
SIGNED = {name: not QUANTIZERS[name].kinds or set(QUANTIZERS[name].kinds) - set(NON_NEGATIVE) for name in NAMES}
# Power-of-two factors know one granularity, one range and no symmetric codes.
ONLY = {"ptf": ("channel", "minmax", False)}
BITS = st.integers(2, 8)
RANGES = st.sampled_from(["minmax", "percentile", "mse"])
GRANULARITIES = st.sampled_from(["tensor", "channel", "token", "group:2"])

ADVERSARIAL = {
    "constant": torch.full((2, 3, 4), 0.7),
    "zero": torch.zeros(2, 3, 4),
    "single element": torch.tensor([[[0.3]]]),
    "huge range": torch.tensor([[[1e-20, 1.0, 1e20, 3.0]]]),
    "one outlier": torch.cat([torch.rand(1, 3, 4) * 1e-3, torch.full((1, 3, 4), 1e-3)]).index_fill(
        0, torch.tensor(1), 1e3
    ),
    "tiny": torch.rand(2, 3, 4) * 1e-30,
    "normal": torch.rand(4, 3, 4, generator=torch.Generator().manual_seed(0)),
}


def fitted(
    name: str, bits: int, x: Tensor, granularity: str = "tensor", range_search: str = "minmax", **more: object
) -> Quantizer:
    symmetric = bool(more.pop("symmetric", False))
    granularity, range_search, symmetric = ONLY.get(name, (granularity, range_search, symmetric))
    quantizer = build(name, bits, Axes(channel=-1, token=True), granularity, range_search, symmetric, dict(more))
    quantizer.fit_tensor(x)
    return quantizer


def check(quantizer: Quantizer, x: Tensor) -> None:
    codes = quantizer.encode(x)
    assert codes.dtype == torch.int64
    assert codes.shape == x.shape
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 2**quantizer.bits
    decoded = quantizer.decode(codes)
    assert torch.isfinite(decoded).all()
    assert torch.equal(quantizer(x), decoded), "forward must be decode∘encode, bit for bit"
    levels = quantizer.levels()
    assert levels.shape[1] == 2**quantizer.bits
    for value in decoded.flatten().tolist():
        assert bool((levels == value).any()), "every output is one of the 2^b levels"


def test_what_is_tested_elsewhere_is_registered() -> None:
    assert set(ELSEWHERE) < set(QUANTIZERS)
    assert len(NAMES) > 8


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ADVERSARIAL)
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("range_", ["minmax", "percentile", "mse"])
def test_adversarial_tensors_stay_within_two_to_the_b_codes(name: str, case: str, bits: int, range_: str) -> None:
    x = ADVERSARIAL[case]
    granularity = "tensor" if x.shape[-1] == 1 else "channel"
    check(fitted(name, bits, x, granularity, range_), x)
    if SIGNED[name]:
        check(fitted(name, bits, -x, "tensor", range_), -x)
        check(fitted(name, bits, x - x.mean(), "tensor", range_, symmetric=True), x - x.mean())


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(bits=BITS, range_=RANGES, granularity=GRANULARITIES, seed=st.integers(0, 2**31), scale=st.floats(1e-6, 1e6))
def test_random_tensors_stay_within_two_to_the_b_codes(
    name: str, bits: int, range_: str, granularity: str, seed: int, scale: float
) -> None:
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(seed)) * scale
    if not SIGNED[name]:
        x = x.abs()
    quantizer = fitted(name, bits, x, granularity, range_)
    check(quantizer, x)
    # Values never seen in calibration, far outside the range, still get a code.
    far = x * 100 if SIGNED[name] else x.abs() * 100
    assert int(quantizer.encode(far).max()) < 2**bits


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 0.3, 1e-12, 1e12])
def test_a_constant_tensor_is_reproduced(name: str, value: float) -> None:
    x = torch.full((2, 3, 4), value)
    for sign in (1, -1) if SIGNED[name] else (1,):
        out = fitted(name, 4, sign * x)(sign * x)
        if value == 0.0 and not SIGNED[name]:
            assert float(out.max()) <= 2 ** -(15 / (2 if name == "log_sqrt2" else 1)), (
                "zero gets the least power of scale 1"
            )
        elif name == "sulq":
            # Powers of two less a shift of at least 0.001: the nearest of these.
            assert float((out - x).abs().max()) <= max(0.5 * value, 1e-3)
        else:
            assert torch.allclose(out, sign * x, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_passes_straight_through(name: str) -> None:
    x = torch.rand(2, 3, 4, requires_grad=True)
    quantizer = fitted(name, 8, x.detach(), "channel")
    quantizer(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


@settings(max_examples=60, deadline=None)
@given(bits=BITS, seed=st.integers(0, 2**31))
def test_uniform_matches_the_float64_formula(bits: int, seed: int) -> None:
    """s = (max − min)/(2^b − 1), z = round(−min/s), x̂ = s·(clamp(round(x/s) + z) − z) with zero inside the range."""
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(seed))
    quantizer = fitted("uniform", bits, x, "channel")
    for channel in range(4):
        column = x[..., channel].double()
        low, high = min(0.0, float(column.min())), max(0.0, float(column.max()))
        scale = (high - low) / (2**bits - 1)
        zero = round(-low / scale)
        expected = scale * (torch.clamp(torch.round(column / scale) + zero, 0, 2**bits - 1) - zero)
        assert torch.allclose(quantizer(x)[..., channel].double(), expected, atol=1e-5 * (high - low))


def test_uniform_without_zero_in_its_range() -> None:
    x = torch.linspace(5, 6, 16).view(1, 4, 4)
    free = fitted("uniform", 4, x, include_zero=False)
    assert torch.allclose(free(x), x, atol=1e-5), "16 values, 16 codes"
    assert float((fitted("uniform", 4, x)(x) - x).abs().max()) > 0.05


def test_symmetric_uniform_has_its_zero_in_the_middle() -> None:
    x = torch.tensor([[[-1.0, 0.5, 0.25, 1.0]]])
    quantizer = fitted("uniform", 4, x, symmetric=True)
    assert float(quantizer.get_buffer("zero_point")[0]) == 8.0
    assert float(quantizer(torch.zeros(1, 1, 1))) == 0.0
    assert torch.allclose(quantizer(x), x, atol=1 / 14 + 1e-6), "both ends are covered"


@pytest.mark.parametrize(("name", "steps"), [("log2", 1), ("log_sqrt2", 2)])
@pytest.mark.parametrize(("zero_code", "levels"), [(False, "strict"), (True, "strict"), (True, "public")])
def test_log_quantizers_match_the_float64_formula(name: str, steps: int, zero_code: bool, levels: str) -> None:
    x = torch.rand(2, 3, 64, generator=torch.Generator().manual_seed(1)) ** 6
    bits, scale = 4, float(x.max())
    quantizer = fitted(name, bits, x, zero_code=zero_code, levels=levels)
    out = quantizer(x)
    last = 2**bits - 2 if zero_code and levels == "strict" else 2**bits - 1
    assert quantizer.levels().shape == (1, last + 2 if zero_code else last + 1)
    assert torch.equal(quantizer.decode(quantizer.encode(x)), out)
    for value, got in zip(x.flatten().tolist(), out.flatten().tolist(), strict=True):
        code = round(-steps * math.log2(value / scale))
        expected = scale * 2 ** (-min(code, last) / steps)
        if code > last and zero_code:
            expected = 0.0
        assert got == pytest.approx(expected, rel=1e-5)


def test_public_levels_need_the_zero_that_they_add() -> None:
    with refuses(ValueError, key="options.zero_code", value=False, valid=[True]):
        fitted("log_sqrt2", 4, torch.rand(1, 8, 8), levels="public")
    with refuses(ValueError, key="options.levels", value="papers", valid=["public", "strict"]):
        fitted("log2", 4, torch.rand(1, 8, 8), levels="papers")


def test_log_sqrt2_equals_repq_vits_change_of_base() -> None:
    """RepQ-ViT eq. 12–13: s·√2^(−q) = s·(1 + odd(q)·(√2 − 1))·2^(−⌈q/2⌉)."""
    quantizer = fitted("log_sqrt2", 4, torch.rand(1, 8, 8))
    codes = torch.arange(16).view(1, 4, 4)
    scale = float(quantizer.get_buffer("scale")[0])
    shifted = scale * (1 + (codes % 2) * (math.sqrt(2) - 1)) * torch.exp2(-torch.ceil(codes.double() / 2))
    assert torch.allclose(quantizer.decode(codes).double(), shifted, rtol=1e-6)


def test_errors_name_value_and_remedy() -> None:
    with refuses(ValueError, key="bits", value=9, valid=range(2, 9)):
        build("uniform", 9, Axes(0), "tensor", "minmax", False, {})
    with refuses(ValueError, key="options.percentile", value="percentile", valid=["percentiles"]):
        build("uniform", 4, Axes(0), "tensor", "minmax", False, {"percentile": [0.9]})
    with refuses(ValueError, key="quantizer", value=-1.0):
        fitted("log2", 4, torch.tensor([[[-1.0, 1.0]]]))
    with refuses(ValueError, key="options.percentiles", value=0.3):
        fitted("uniform", 4, torch.rand(1, 2, 2), range_search="percentile", percentiles=[0.3])
    with refuses(ValueError, key="options.shrink_to", value="far", valid=["zero", "near"]):
        fitted("uniform", 4, torch.rand(1, 2, 2), range_search="mse", shrink_to="far")
    with refuses(RuntimeError, key="layout"):
        build("uniform", 4, Axes(0), "tensor", "minmax", False, {}).encode(torch.rand(2))
    with refuses(ValueError, key="rows", value=(4, 0)):
        fitted("uniform", 4, torch.zeros(0, 3, 4), "channel")
