"""I&S-ViT's shift-uniform-log2 quantizer against independent float64 references."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from vitq.methods.ias_vit import ETAS, SULQ
from vitq.quant.layout import Axes
from vitq.quant.model import build


def fitted(bits: int, x: torch.Tensor, **options: object) -> SULQ:
    quantizer = build("sulq", bits, Axes(channel=-1), "tensor", "minmax", False, dict(options))
    quantizer.fit_tensor(x)
    assert isinstance(quantizer, SULQ)
    return quantizer


def probs(seed: int, sharpness: float = 3.0) -> torch.Tensor:
    scores = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(seed)) * sharpness
    return scores.softmax(dim=-1)


def strict(x: np.ndarray, eta: float, last: int) -> np.ndarray:
    """Eq. 13–14 with UQ of eq. 7–9: s = (max − min)/(2^b − 1), z = round(−min/s)."""
    y = -np.log2(x + eta)
    s = (y.max() - y.min()) / last
    z = round(-y.min() / s)
    q = np.clip(np.round(y / s) + z, 0, last)
    return np.asarray(2.0 ** -np.round((q - z) * s) - eta)


def public(x: np.ndarray, eta: float, last: int) -> np.ndarray:
    """What public code computes: codes count from the least logarithm, whatever it is."""
    y = np.log2(x + eta)
    s = (y.max() - y.min()) / last
    q = np.clip(np.round((y - y.min()) / s), 0, last)
    return np.asarray(2.0 ** np.round(q * s + y.min()) - eta)


@settings(max_examples=30, deadline=None)
@given(bits=st.integers(2, 6), seed=st.integers(0, 2**31), sharpness=st.floats(0.5, 6))
@pytest.mark.parametrize("levels", ["strict", "public"])
def test_sulq_matches_the_float64_formula(levels: str, bits: int, seed: int, sharpness: float) -> None:
    x = probs(seed, sharpness)
    wide = x.double().numpy()
    reference = strict if levels == "strict" else public
    last = 2**bits - 1
    quantizer = fitted(bits, x, levels=levels)
    errors = {eta: float(np.square(reference(wide, eta, last) - wide).sum()) for eta in ETAS}
    chosen = min(ETAS, key=lambda eta: abs(eta - float(quantizer.eta)))
    # A logarithm that is rounded otherwise in float32 moves a value, and with it a close decision.
    assert errors[chosen] <= min(errors.values()) * 1.01
    expected = reference(wide, chosen, last if levels == "strict" else last + 1)
    found = quantizer(x).double().numpy()
    assert np.mean(~np.isclose(found, expected, rtol=1e-5, atol=1e-7)) < 0.005


@pytest.mark.parametrize("bits", [3, 4])
def test_public_levels_reach_both_ends_of_the_logarithm(bits: int) -> None:
    """The greatest and the least value each keep their own power of two, with one code more than b bits hold."""
    x = probs(0)
    quantizer = fitted(bits, x, levels="public")
    eta = float(quantizer.eta)
    assert int(quantizer.encode(x).min()) == 0
    assert int(quantizer.encode(x).max()) == 2**bits
    for value in (float(x.max()), float(x.min())):
        expected = 2.0 ** round(math.log2(value + eta)) - eta
        assert float(quantizer(torch.tensor([[value]]))) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_the_candidates_of_the_shift_are_public_codes() -> None:
    """zysxmu/IaS-ViT, quantizer.py."""
    assert SULQ.options["etas"] == (0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1.0)


@pytest.mark.parametrize("eta", [0.2, 0.5, 1.0])
def test_a_large_shift_is_found_where_the_values_are_powers_of_two_less_it(eta: float) -> None:
    powers = (1.0, 0.5, 0.25) if eta < 0.5 else (2 * eta, eta)
    x = torch.tensor([[power - eta for power in powers] * 10])
    quantizer = fitted(3, x)
    assert float(quantizer.eta) == pytest.approx(eta)
    assert torch.allclose(quantizer(x), x, atol=1e-6)


def test_a_flat_distribution_wants_a_large_shift() -> None:
    """All values of [0, 1] alike at 2 bits: by the formula in float64, 0.2 is best by a tenth."""
    x = torch.linspace(0, 1, 4001).view(1, -1)
    wide = x.double().numpy()
    errors = {
        eta: float(np.square(strict(wide, eta, 3) - wide).sum()) for eta in (0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
    }
    assert sorted(errors.values())[1] > 1.05 * errors[0.2] == 1.05 * min(errors.values())
    assert float(fitted(2, x).eta) == pytest.approx(0.2)
