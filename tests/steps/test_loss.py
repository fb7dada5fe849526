"""Reconstruction losses against their formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.errors import refuses
from vitq.steps.reconstruction.loss import LOSSES, imbalance, weights_of


def tokens(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Some tokens and some channels are far larger than the others, as in a transformer."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=random)
    x[..., 0] *= 30
    x[:, 0] *= 5
    return x


def reference(seen: Tensor) -> np.ndarray:
    """w_btc ∝ mean_c'(x²_btc')·mean_b't'(x²_b't'c), mean 1."""
    energy = seen.double().numpy() ** 2
    weight = np.empty_like(energy)
    for b, t, c in np.ndindex(*energy.shape):
        weight[b, t, c] = energy[b, t].mean() * energy[:, :, c].mean()
    return np.asarray(weight / weight.mean())


@given(seed=st.integers(0, 1000), batch=st.integers(1, 3), length=st.integers(1, 5), width=st.integers(1, 4))
def test_token_channel_is_the_weighted_squared_error(seed: int, batch: int, length: int, width: int) -> None:
    target, output = tokens((batch, length, width), seed), tokens((batch, length, width), seed + 1)
    weight = weights_of("token_channel", output, target)
    assert weight is not None
    assert np.allclose(weight.double().numpy(), reference(target), rtol=1e-4)
    error = (output.double().numpy() - target.double().numpy()) ** 2 * reference(target)
    expected = error.sum(axis=1).mean()
    assert float(LOSSES["token_channel"](output, target, weight)) == pytest.approx(expected, rel=1e-4)


def test_inputs_weigh_where_they_have_the_targets_shape() -> None:
    inputs, target = tokens((2, 5, 4), 1), tokens((2, 5, 4), 2)
    by_inputs = weights_of("token_channel", inputs, target, "inputs")
    assert by_inputs is not None
    assert np.allclose(by_inputs.double().numpy(), reference(inputs), rtol=1e-4)
    merged = weights_of("token_channel", tokens((2, 5, 8), 1), target, "inputs")
    assert merged is not None
    assert torch.equal(merged, imbalance(target)), "another shape: the targets'"


def test_images_and_windows_keep_their_own_tokens() -> None:
    """A feature map (B, H, W, C) has H·W tokens."""
    target = tokens((2, 3, 4, 5))
    flat = reference(target.flatten(1, 2))
    assert np.allclose(imbalance(target).flatten(1, 2).double().numpy(), flat, rtol=1e-4)


def test_even_activations_weigh_alike() -> None:
    assert torch.allclose(imbalance(torch.ones(2, 5, 4)), torch.ones(2, 5, 4))
    assert torch.equal(imbalance(torch.randn(4, 10)), torch.ones(4, 10)), "logits have no tokens"
    assert torch.isfinite(imbalance(torch.zeros(2, 5, 4))).all()


def test_token_channel_without_weights_is_refused() -> None:
    with refuses(ValueError, key="weight"):
        LOSSES["token_channel"](torch.zeros(1, 2, 3), torch.ones(1, 2, 3), None)
    assert weights_of("mse", torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)) is None


def test_mse_sums_over_tokens() -> None:
    output, target = tokens((3, 5, 4), 1), tokens((3, 5, 4), 2)
    expected = ((output.double() - target.double()) ** 2).sum(1).mean()
    assert float(LOSSES["mse"](output, target, None)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_tokens_of_swin_in_rows_and_columns_count_like_tokens_in_a_row(name: str) -> None:
    output, target, weight = (tokens((3, 12, 4), seed) for seed in (1, 2, 3))
    flat = LOSSES[name](output, target, weight)
    square = LOSSES[name](*(x.unflatten(1, (3, 4)) for x in (output, target, weight)))
    assert float(square) == pytest.approx(float(flat), rel=1e-5)


@pytest.mark.parametrize("shape", [(3, 10), (3, 5, 4), (3, 2, 6, 4)])
def test_the_fisher_diagonal_of_gradients_one_is_the_squared_error(shape: tuple[int, ...]) -> None:
    """At the head, after tokens in a row, and after Swin's rows and columns: one learning rate serves both losses."""
    random = torch.Generator().manual_seed(3)
    output, target = torch.randn(shape, generator=random), torch.randn(shape, generator=random)
    images, channels = shape[0], 1 if len(shape) == 2 else shape[-1]
    expected = np.sum((output.double().numpy() - target.double().numpy()) ** 2) / images / channels
    assert float(LOSSES["mse"](output, target, None)) == pytest.approx(expected, rel=1e-5)
    assert float(LOSSES["fisher_diag"](output, target, torch.ones(shape))) == pytest.approx(expected, rel=1e-5)
    assert float(LOSSES["fisher_diag"](output, target, torch.full(shape, 3.0))) == pytest.approx(9 * expected, rel=1e-5)
