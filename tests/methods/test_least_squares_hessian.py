"""LS-ViT's Hessian against its formulas in float64."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from tests.methods.one_segment import Make, made, slopes, values
from vitq.methods.least_squares_hessian import LeastSquaresHessian


@pytest.mark.parametrize("negative", ["zero", "keep"])
@pytest.mark.parametrize("reads", ["fp", "quantized"])
def test_diagonal_and_direction_are_the_least_squares_fit(
    workspace: Make, reads: Literal["fp", "quantized"], negative: Literal["zero", "keep"]
) -> None:
    work, task = made(workspace, 1)
    measure = LeastSquaresHessian(reads=reads, negative=negative, temperature=4.0).of(work, task)
    with torch.no_grad():
        output = task.segment.forward(values(task.exact if reads == "fp" else task.noisy))
    g = slopes(work, task, output, 4.0).flatten(1).numpy()
    z = (output - values(task.target)).double().flatten(1).numpy()
    h = (g * z).mean(axis=0) / (z * z).mean(axis=0)
    assert (h < 0).any(), "signs are kept, the test shows something"
    along = np.maximum((g * z).sum(axis=1), 0)
    u = (g * np.sqrt(along)[:, None]).mean(axis=0) / along.mean()
    if negative == "zero":
        h = np.maximum(h, 0)
    unit = np.abs(h).mean()
    other = torch.randn(output.shape, generator=torch.Generator().manual_seed(3)) * 0.1
    error = other.double().flatten(1).numpy()
    expected = np.mean(0.5 * (error**2 * h).sum(axis=1) + 0.5 * (error @ u) ** 2) / unit
    terms = measure.terms(values(task.target) + other, values(task.target), torch.arange(6))
    assert terms.tolist() == pytest.approx([expected], rel=5e-3)


def test_one_image_is_fitted_exactly(workspace: Make) -> None:
    """uᵀΔz = √(Δzᵀg) for the only image there is, and hᵢ·Δzᵢ = gᵢ."""
    work, task = made(workspace, 1, count=1)
    measure = LeastSquaresHessian(negative="keep").of(work, task)
    with torch.no_grad():
        output = task.segment.forward(values(task.exact))
    g = slopes(work, task, output, 20.0).flatten()
    z = (output - values(task.target)).double().flatten()
    assert float(g @ z) > 0
    terms = measure.terms(output, values(task.target), torch.arange(1))
    assert float(terms[0]) == pytest.approx(float(g @ z / torch.where(z == 0, 0.0, g / z).abs().mean()), rel=1e-2)
