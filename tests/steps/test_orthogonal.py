"""Rotations are orthogonal and keep the mean, for all sizes and seeds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.errors import refuses
from vitq.steps.orthogonal import Matrix, hadamard, mean_preserving, orthogonal

# Widths of ViT, DeiT, Swin, SigLIP and DINOv2 models, head sizes, and the smallest.
SIZES = (1, 2, 4, 12, 20, 24, 28, 32, 36, 48, 64, 72, 80, 88, 96, 128, 192, 320, 384)


@given(st.sampled_from(SIZES), st.integers(0, 2**31))
@settings(deadline=None, max_examples=25)
def test_hadamard_rotations_are_orthogonal_and_keep_the_mean(size: int, seed: int) -> None:
    _check(size, seed, "hadamard")


@given(st.integers(1, 130), st.integers(0, 2**31))
@settings(deadline=None, max_examples=25)
def test_random_rotations_are_orthogonal_and_keep_the_mean(size: int, seed: int) -> None:
    _check(size, seed, "random")


def _check(size: int, seed: int, matrix: Matrix) -> None:
    identity, ones = torch.eye(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    q, r = orthogonal(size, generator, matrix), mean_preserving(size, generator, matrix)
    assert (q @ q.T - identity).abs().max() < 1e-12
    assert (r @ r.T - identity).abs().max() < 1e-12
    assert (r @ ones - ones).abs().max() < 1e-12
    assert (ones @ r - ones).abs().max() < 1e-12, "rows and columns alike"
    x = torch.randn(5, size, generator=generator, dtype=torch.float64) * 30 + 7
    assert torch.allclose((x @ r).mean(1), x.mean(1), rtol=1e-12, atol=1e-11)
    normed = torch.nn.functional.layer_norm(x, (size,))
    assert torch.allclose(torch.nn.functional.layer_norm(x @ r, (size,)), normed @ r, atol=1e-9)


@pytest.mark.parametrize("size", [768, 1024, 1152, 1280, 1408])
def test_wide_models_have_hadamard_matrices(size: int) -> None:
    found = hadamard(size)
    assert found is not None
    assert bool((found.abs() == 1).all())
    assert torch.equal(found @ found.T, size * torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize("size", [3, 6, 18, 54, 92])
def test_sizes_without_a_known_matrix_are_refused(size: int) -> None:
    assert hadamard(size) is None
    with refuses(ValueError, key="matrix", value="hadamard", valid=["random"]):
        orthogonal(size, torch.Generator())


def test_one_large_channel_is_spread_evenly() -> None:
    x = torch.zeros(1, 192, dtype=torch.float64)
    x[0, 17] = 100
    turned = x @ mean_preserving(192, torch.Generator().manual_seed(0))
    assert turned.abs().max() < 2.5 * 100 / 192**0.5


def test_the_seed_decides() -> None:
    first, again, other = (mean_preserving(48, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
