"""Gradients at the segments' outputs, and the losses that weigh with them, against plain float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.errors import refuses
from tests.tiny import images, tiny
from vitq.steps import Workspace
from vitq.steps.reconstruction.fisher import gradients
from vitq.steps.reconstruction.loss import LOSSES

Make = Callable[..., Workspace]
METHOD = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_gradients_are_those_of_the_drawn_label(workspace: Make, family: str) -> None:
    work = workspace(tiny(family), METHOD, images=8)
    streams = gradients(work)
    segments = work.teacher.segments
    x = images(work)
    generator = torch.Generator().manual_seed(work.config.seed)
    model = copy.deepcopy(work.teacher.model).double()
    with torch.no_grad():
        logits = model(x.double())
    chosen = torch.multinomial(logits.float().softmax(-1), 1, generator=generator)
    # The gradient at the logits is onehot(y) − p; the stream holds it up to one factor.
    expected = torch.nn.functional.one_hot(chosen.squeeze(1), logits.shape[1]) - logits.softmax(-1)
    found = torch.cat(list(streams[-1].batches())).double()
    factor = float((found * expected).sum() / expected.square().sum())
    assert torch.allclose(found, factor * expected, atol=1e-5)
    assert len(streams) == len(segments)
    for stream in streams:
        assert float(torch.cat(list(stream.batches())).square().mean()) == pytest.approx(1.0, rel=1e-4)


def test_a_finite_difference_agrees(workspace: Make) -> None:
    work = workspace(tiny("vit"), METHOD, images=4)
    streams = gradients(work)
    segments = work.teacher.segments
    z = images(work)
    with torch.no_grad():
        for segment in segments[:2]:
            z = segment.forward(z)
        logits = z
        for segment in segments[2:]:
            logits = segment.forward(logits)
    chosen = torch.multinomial(logits.softmax(-1), 1, generator=torch.Generator().manual_seed(work.config.seed))

    def likelihood(z: Tensor) -> Tensor:
        for segment in segments[2:]:
            z = segment.forward(z)
        return z.log_softmax(-1).gather(1, chosen).sum()

    gradient = torch.cat(list(streams[1].batches()))
    direction = random(*z.shape, seed=1)
    with torch.no_grad():
        slope = (likelihood(z + 1e-2 * direction) - likelihood(z - 1e-2 * direction)) / 2e-2
        other = (likelihood(z + 1e-2 * gradient) - likelihood(z - 1e-2 * gradient)) / 2e-2
    # Two directions fix the common factor: the ratio of slopes is the ratio of inner products.
    assert float(slope / other) == pytest.approx(
        float((gradient * direction).sum() / gradient.square().sum()), rel=0.05, abs=1e-3
    )


def test_losses_are_the_quadratic_forms_of_their_papers() -> None:
    output, target, gradient = random(3, 5, 4, seed=0), random(3, 5, 4, seed=1), random(3, 5, 4, seed=2)
    error, g = (output - target).double().numpy().reshape(3, -1), gradient.double().numpy().reshape(3, -1)
    diagonal = np.mean([e @ np.diag(w**2) @ e for e, w in zip(error, g, strict=True)]) / 4
    full = np.mean([e @ (np.diag(w**2) + np.outer(w, w)) @ e for e, w in zip(error, g, strict=True)]) / 4
    assert float(LOSSES["fisher_diag"](output, target, gradient)) == pytest.approx(diagonal, rel=1e-5)
    assert float(LOSSES["hessian"](output, target, gradient)) == pytest.approx(full, rel=1e-5)
    ones = torch.ones_like(output)
    assert torch.allclose(LOSSES["fisher_diag"](output, target, ones), LOSSES["mse"](output, target, None))


@pytest.mark.parametrize("name", ["fisher_diag", "hessian"])
def test_without_a_gradient_the_loss_says_so(name: str) -> None:
    with refuses(ValueError, key="gradient"):
        LOSSES[name](torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), None)
