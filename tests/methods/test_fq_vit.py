"""Power-of-two factors and the integer softmax against float64 references; sites of a fully quantized model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.errors import refuses
from tests.tiny import images, part, run, tiny
from vitq.methods.fq_vit import PowerOfTwoFactor
from vitq.quant.layout import Axes
from vitq.quant.model import build
from vitq.quant.softmax import QuantSoftmax, polynomial_exp
from vitq.steps import Workspace

Make = Callable[..., Workspace]
FULL: dict[str, Any] = {
    "kinds": {
        "weight": {"granularity": "channel"},
        "norm_input": {"quantizer": "ptf", "granularity": "channel"},
        "scores": {"quantizer": "int_scores"},
        "probs": {"quantizer": "log2"},
        "default": {},
    }
}
CALIBRATE = {"do": "calibrate"}


@given(st.integers(2, 8), st.integers(0, 4), st.integers(0, 1000))
def test_factors_are_those_of_the_paper(bits: int, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, 5, 4)) * np.array([0.05, 0.3, 1.0, 4.0])
    quantizer = PowerOfTwoFactor(bits, "channel", Axes(-1, token=True), K=most)
    quantizer.fit_tensor(torch.tensor(x, dtype=torch.float32))
    step = (x.max() - x.min()) / (2**bits - 1) / 2**most
    zero = np.round(-x.min() / (2**most * step))
    assert quantizer.zero_point.tolist() == [zero] * 4
    for channel in range(4):
        values = x[..., channel]
        errors = []
        for alpha in range(most + 1):
            scale = 2**alpha * step
            codes = np.clip(np.round(values / scale) + zero, 0, 2**bits - 1)
            errors.append(np.sum(((codes - zero) * scale - values) ** 2))
        found = float(quantizer.scale[channel])
        alpha = np.log2(found / step)
        assert alpha == pytest.approx(round(alpha), abs=1e-4)
        assert errors[round(alpha)] <= min(errors) * (1 + 1e-4)
    codes = quantizer.encode(torch.tensor(x, dtype=torch.float32))
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 2**bits


@given(st.floats(-60, 0))
def test_the_polynomial_is_close_to_exp(value: float) -> None:
    found = float(polynomial_exp(torch.tensor(value)))
    assert found == pytest.approx(np.exp(value), rel=6e-3, abs=1e-30)


def test_the_polynomial_is_what_the_paper_writes() -> None:
    x = torch.linspace(-20, 0, 1001, dtype=torch.float64)
    z = np.floor(-x.numpy() / np.log(2))
    p = x.numpy() + z * np.log(2)
    expected = (0.3585 * (p + 1.353) ** 2 + 0.344) / 2.0**z
    assert np.allclose(polynomial_exp(x).numpy(), expected, rtol=1e-9)


def test_softmax_of_integer_scores_is_the_polynomials() -> None:
    """Behind a site with `int_scores` the powers are the paper's, of the quantized scores, and not exp."""
    softmax = QuantSoftmax("attention")
    softmax.attach()
    site = softmax.site
    assert site is not None
    scores = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 4
    site.quantizer = quantizer = build("int_scores", 8, site.axes, "tensor", "minmax", False, {})
    quantizer.fit_tensor(scores)
    site.on = True
    x = quantizer(scores).double()
    distance = x.amax(-1, keepdim=True) - x
    z = torch.floor(distance / np.log(2))
    p = z * np.log(2) - distance
    powers = (0.3585 * (p + 1.353) ** 2 + 0.344) / 2**z
    found = softmax(scores).double()
    assert torch.allclose(found, powers / powers.sum(-1, keepdim=True), rtol=1e-5)
    assert not torch.allclose(found, x.softmax(-1), rtol=1e-4), "the two can be told apart"


def public_integers(codes: np.ndarray, step: float) -> np.ndarray:
    """Log-Int-Softmax on integers, written out: (N,) codes of one row → its powers, exact Python integers."""
    b, c = 0.96963238 / 0.35815147, 1 / 0.35815147
    unit = math.floor(-math.log(2) / step)
    powers = []
    for k in codes - codes.max():
        k = max(int(k), 30 * unit)
        z = k // unit
        r = k - unit * z
        powers.append(max((r * (r + math.floor(b / step)) + math.floor(c / step**2)) * 2 ** (30 - z), 0))
    return np.array(powers, dtype=object)


@pytest.mark.parametrize(("bits", "spread"), [(8, 4.0), (8, 12.0), (6, 4.0), (4, 2.0)])
def test_integer_arithmetic_is_public_codes(bits: int, spread: float) -> None:
    softmax = QuantSoftmax("attention")
    softmax.attach()
    site = softmax.site
    assert site is not None
    scores = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(bits)) * spread
    options: dict[str, object] = {"arithmetic": "integer"}
    site.quantizer = quantizer = build("int_scores", bits, site.axes, "tensor", "minmax", False, options)
    quantizer.fit_tensor(scores)
    site.on = True
    step = float(quantizer.get_buffer("scale"))
    codes = quantizer.encode(scores).numpy()
    found = softmax(scores)
    expected = np.apply_along_axis(public_integers, -1, codes, step)
    shares = (expected / expected.sum(-1, keepdims=True)).astype(np.float64)
    assert np.allclose(found.numpy(), shares, rtol=1e-5, atol=1e-12)
    real = build("int_scores", bits, site.axes, "tensor", "minmax", False, {})
    real.fit_tensor(scores)
    site.quantizer = real
    assert not torch.allclose(softmax(scores), found, rtol=1e-2), "the two can be told apart"


def test_integer_arithmetic_lets_gradients_through() -> None:
    softmax = QuantSoftmax("attention")
    softmax.attach()
    site = softmax.site
    assert site is not None
    scores = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    site.quantizer = build("int_scores", 8, site.axes, "tensor", "minmax", False, {"arithmetic": "integer"})
    site.quantizer.fit_tensor(scores)
    site.on = True
    plain = softmax(scores)
    leaf = scores.clone().requires_grad_(True)
    out = softmax(leaf)
    assert torch.allclose(out.detach(), plain, atol=1e-6)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad((out * weights).sum(), leaf)
    exact = scores.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad((exact.softmax(-1) * weights).sum(), exact)
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.95


def test_a_step_too_coarse_for_integers_is_refused() -> None:
    scores = torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(0)) * 20
    quantizer = build(
        "int_scores", 4, Axes(-1, head=1, token=True), "tensor", "minmax", False, {"arithmetic": "integer"}
    )
    with refuses(ValueError, key="options.arithmetic", value="integer", valid=["real"]):
        quantizer.fit_tensor(scores)
    with refuses(ValueError, key="options.arithmetic", value="int", valid=["integer", "real"]):
        build("int_scores", 4, Axes(-1), "tensor", "minmax", False, {"arithmetic": "int"})


@torch.no_grad()
def test_a_norm_reads_what_its_site_gives(workspace: Make) -> None:
    work = workspace(tiny("vit"), {"kinds": {"norm_input": {"quantizer": "uniform"}}}, weight="fp", activation=2)
    run(work, CALIBRATE)
    norm = part(work.model.model, "blocks.0.norm1")
    x = torch.randn(2, 17, 48, generator=torch.Generator().manual_seed(0))
    rounded = norm.input_site.quantizer(x)
    expected = torch.nn.functional.layer_norm(rounded, (48,), norm.weight, norm.bias, norm.eps)
    assert torch.allclose(norm(x), expected, atol=1e-5)
    assert not torch.allclose(rounded, x, atol=1e-2), "two bits change it"


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_a_fully_quantized_model_has_sites_before_norm_and_softmax(workspace: Make, family: str) -> None:
    plain = workspace(tiny(family), {"kinds": {"weight": {"granularity": "channel"}, "default": {}}})
    kinds = {site.kind for site in plain.model.sites.values()}
    assert not kinds & {"norm_input", "scores"}
    work = workspace(tiny(family), FULL, weight=8, activation=8)
    full = [site.kind for site in work.model.sites.values()]
    norms = [m for m in work.model.model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert full.count("norm_input") == len(norms)
    assert full.count("scores") == full.count("probs") == len(work.model.structure.attentions)
    with torch.no_grad():
        exact = work.model(images(work))
        assert torch.allclose(exact, plain.model(images(plain)), atol=1e-5)
        run(work, CALIBRATE)
        assert all(site.on for site in work.model.quantized())
        close = work.model(images(work))
    assert (close - exact).norm() < 0.3 * exact.norm()
    assert not torch.equal(close, exact)


def test_the_shift_mask_of_swin_does_not_widen_the_range_of_scores(workspace: Make) -> None:
    work = workspace(tiny("swin"), FULL, weight=8, activation=8)
    run(work, CALIBRATE)
    scores = [site for site in work.model.sites.values() if site.kind == "scores"]
    assert scores
    for site in scores:
        assert float(site.quantizer.levels().min()) > -60  # type: ignore[union-attr]


@pytest.mark.parametrize("wrong", [9, True, 2.0])
def test_bad_options_are_named(wrong: object) -> None:
    with refuses(ValueError, key="options.K", value=wrong, valid=range(9)):
        PowerOfTwoFactor(4, "channel", Axes(-1), K=wrong)
    with refuses(ValueError, key="granularity", value="tensor", valid=["channel"]):
        PowerOfTwoFactor(4, "tensor", Axes(-1))
