"""APHQ-ViT's weights against the whole Hessian in float64."""

from __future__ import annotations

import pytest
import torch

from tests.methods.one_segment import Make, double, kl, logits, made, values
from vitq.methods.perturbation_hessian import PerturbationHessian
from vitq.steps.reconstruction.curvature import importance, row_sums


@pytest.mark.parametrize(("family", "index"), [("vit", 1), ("swin", 3)])
def test_weights_are_absolute_row_sums_of_the_hessian(workspace: Make, family: str, index: int) -> None:
    work, task = made(workspace, index, family, count=2)
    segments, target = double(work), values(task.target).double()
    total = torch.zeros(target[0].numel(), dtype=torch.float64)
    for z in target.split(1):
        with torch.no_grad():
            wanted = logits(segments, index, z)
        hessian = torch.autograd.functional.hessian(lambda x, w=wanted: kl(w, logits(segments, index, x), 20.0), z)
        total += hessian.reshape(z.numel(), z.numel()).sum(dim=1).abs()
    expected = (total / total.mean()).reshape(target.shape[1:]).float()
    weight = importance(work, index, task.target.batches(), 20.0)
    assert torch.allclose(weight, expected, rtol=2e-3, atol=2e-3 * float(expected.max()) * 1e-2)
    difference = importance(work, index, task.target.batches(), 20.0, epsilon=1e-2)
    assert torch.allclose(difference, expected, atol=0.05 * float(expected.max()))

    measure = PerturbationHessian().of(work, task)
    output = values(task.target) + torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    loss = ((output.double() - target) ** 2 * expected.double()).mean()
    terms = measure.terms(output, values(task.target), torch.arange(2))
    assert terms.tolist() == pytest.approx([float(loss)], rel=1e-3)
    measure.first = terms
    assert float(measure.loss(3 * terms)) == pytest.approx(6.0), "twice the first value"


def test_a_step_below_an_ulp_is_lost_and_the_product_is_not(workspace: Make) -> None:
    """Elements of about 100, as where activations are massive: public code's 1e-6 changes none of them."""
    work, task = made(workspace, 1, count=2)
    massive = values(task.target) + 100  # LayerNorm takes a common shift away
    (lost,) = row_sums(work, 1, iter([massive]), 20.0, epsilon=1e-6)
    (kept,) = row_sums(work, 1, iter([massive]), 20.0)
    (plain,) = row_sums(work, 1, iter([values(task.target)]), 20.0)
    assert float(lost.abs().max()) == 0.0
    assert torch.allclose(kept, plain, atol=0.02 * float(plain.abs().max()))
