"""APHQ-ViT's weights against differences of gradients in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.methods.one_segment import Make, double, kl, logits, made, values
from vitq.methods.perturbation_hessian import PerturbationHessian
from vitq.steps import Workspace
from vitq.steps.reconstruction.curvature import importance, products, shared_importance, signs_of
from vitq.steps.reconstruction.segment_task import SegmentTask


def difference(work: Workspace, task: SegmentTask, v: Tensor) -> Tensor:
    """H·v in float64, which leaves nine digits of a difference of gradients."""
    segments, target = double(work), values(task.target).double()
    with torch.no_grad():
        wanted = logits(segments, task.index, target)
    ends = []
    for step in (1e-4, -1e-4):
        z = (target + step * v).requires_grad_(True)
        ends.append(torch.autograd.grad(kl(wanted, logits(segments, task.index, z), 20.0), z)[0])
    return (ends[0] - ends[1]) / 2e-4


@pytest.mark.parametrize(("family", "index"), [("vit", 1), ("swin", 3)])
def test_weights_are_the_mean_absolute_products(workspace: Make, family: str, index: int) -> None:
    work, task = made(workspace, index, family, count=3)
    target = values(task.target)
    v = signs_of(target, torch.Generator().manual_seed(work.config.seed * 1_000_003 + index))
    assert set(v.flatten().tolist()) == {-1.0, 1.0}
    total = difference(work, task, v.double()).abs().sum(dim=0)
    expected = (total / total.mean()).float()
    most = float(expected.max())
    weight = importance(products(work, index, task.target.batches(), 20.0))
    assert torch.allclose(weight, expected, rtol=2e-3, atol=2e-4 * most)
    by_difference = importance(products(work, index, task.target.batches(), 20.0, epsilon=1e-2))
    assert torch.allclose(by_difference, expected, atol=0.05 * most)

    measure = PerturbationHessian().of(work, task)
    output = target + torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    loss = ((output.double() - target.double()) ** 2 * expected.double()).mean()
    terms = measure.terms(output, target, torch.arange(3))
    assert terms.tolist() == pytest.approx([float(loss)], rel=1e-3)
    measure.first = terms
    assert float(measure.loss(3 * terms)) == pytest.approx(6.0), "twice the first value"


@pytest.mark.parametrize(("family", "index"), [("vit", 1), ("swin", 3)])
def test_a_common_shift_is_no_direction_of_curvature(workspace: Make, family: str, index: int) -> None:
    """What public code perturbs by: every LayerNorm takes it away, so its difference holds rounding errors alone."""
    work, task = made(workspace, index, family, count=2)
    ones = torch.ones_like(values(task.target)).double()
    signs = signs_of(ones, torch.Generator().manual_seed(0))
    assert float(difference(work, task, ones).abs().max()) < 1e-6 * float(difference(work, task, signs).abs().max())
    (along_ones,) = products(work, index, task.target.batches(), 20.0, "ones")
    (along_signs,) = products(work, index, task.target.batches(), 20.0)
    assert float(along_ones.abs().max()) < 1e-2 * float(along_signs.abs().max())


def test_a_step_below_an_ulp_is_lost_and_the_product_is_not(workspace: Make) -> None:
    """Elements of about 100, as where activations are massive: 1e-6 changes none of them."""
    work, task = made(workspace, 1, count=2)
    massive = [values(task.target) + 100]  # LayerNorm takes a common shift away
    (lost,) = products(work, 1, massive, 20.0, epsilon=1e-6)
    (kept,) = products(work, 1, massive, 20.0)
    (plain,) = products(work, 1, [values(task.target)], 20.0)
    assert float(lost.abs().max()) == 0.0
    assert torch.allclose(kept, plain, atol=0.02 * float(plain.abs().max()))


def test_steps_that_want_the_same_weights_share_them(workspace: Make) -> None:
    work, task = made(workspace, 1, count=2)
    first = shared_importance(work, 1, task.target, 20.0, "signs", None)
    assert shared_importance(work, 1, task.target, 20.0, "signs", None) is first
    assert torch.equal(first, importance(products(work, 1, task.target.batches(), 20.0)))
    assert not torch.equal(shared_importance(work, 1, task.target, 1.0, "signs", None), first)
    work.coordinates = ("turned",)
    assert shared_importance(work, 1, task.target, 20.0, "signs", None) is not first
