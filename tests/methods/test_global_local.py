"""GLF-Q's loss against the network's own features in float64."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.methods.one_segment import Make, made, values
from vitq.methods.global_local import GlobalLocal
from vitq.models.structure import structure_of
from vitq.steps.reconstruction.objective import Divergence


@pytest.mark.parametrize(("family", "index"), [("vit", 0), ("vit", 2), ("swin", 3)])
def test_it_is_the_feature_in_front_of_the_head_and_the_own_output(workspace: Make, family: str, index: int) -> None:
    work, task = made(workspace, index, family)
    measure = GlobalLocal(local=3.0).of(work, task)
    chosen = torch.tensor([4, 1])
    target = values(task.target)[chosen]
    output = target + torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    structure = structure_of(copy.deepcopy(work.teacher.model).double())
    features = []
    for z in (target.double(), output.double()):
        with torch.no_grad():
            for segment in structure.segments[index + 1 : -1]:
                z = segment.forward(z)
            features.append(structure.model.forward_head(structure.model.norm(z), pre_logits=True))  # type: ignore[operator]
    assert features[0].shape == (2, structure.model.num_features)
    expected = [float((a - b).square().mean()) for a, b in (features, (target.double(), output.double()))]
    terms = measure.terms(output, target, chosen)
    assert terms.tolist() == pytest.approx(expected, rel=1e-4)
    measure.first = terms
    assert float(measure.loss(2 * terms)) == pytest.approx(2 + 6)


def test_the_head_learns_kl_and_no_parameter_of_the_teacher_gets_a_gradient(workspace: Make) -> None:
    work, task = made(workspace, 3)
    measure = GlobalLocal().begin(work, task)
    assert isinstance(measure, Divergence)
    logits, other = (torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    p, q = logits.softmax(-1), other.softmax(-1)
    expected = float((p * (p / q).log()).sum(dim=-1).mean())
    assert float(measure.loss(measure.terms(other, logits, torch.arange(6)))) == pytest.approx(expected)
    work, task = made(workspace, 1)
    measure = GlobalLocal().begin(work, task)
    output = values(task.target).clone().requires_grad_(True)
    measure.terms(output + 0.1, values(task.target), torch.arange(6)).sum().backward()
    assert output.grad is not None
    assert float(output.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in work.teacher.model.parameters())
