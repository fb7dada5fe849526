"""FIMA-Q's loss against its formula in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.errors import is_about
from tests.methods.one_segment import Make, made, slopes, values
from tests.tiny import run
from vitq.errors import Problem
from vitq.methods.dplr import Dplr
from vitq.steps.step import parse_step


@pytest.mark.parametrize(("family", "index"), [("vit", 1), ("swin", 2)])
def test_the_loss_is_the_quadratic_form_of_its_moments(workspace: Make, family: str, index: int) -> None:
    work, task = made(workspace, index, family)
    measure = Dplr(rank=2, low_rank=1.5, diagonal=0.5).of(work, task)
    gradients, errors = [], []
    layer = work.model.layers(task.segment)
    for step in range(2):
        if step:  # the segment learned something between two moments
            for name in layer:
                layer[name].weight.data += 0.02 * torch.randn(
                    layer[name].weight.shape, generator=torch.Generator().manual_seed(1)
                )
        measure.refresh()
        with torch.no_grad():
            output = task.segment.forward(values(task.exact))
        gradients.append(slopes(work, task, output, 20.0).abs().mean(dim=0).flatten().numpy())
        errors.append((output - values(task.target)).double().abs().mean(dim=0).flatten().numpy())
    g, d = np.stack(gradients), np.stack(errors)
    g = g / g.mean()
    z = (output - values(task.target)).double().abs().flatten(1).numpy()
    low_rank = np.mean([a @ np.linalg.inv(d @ d.T) @ a for a in z @ g.T])
    diagonal = np.mean(z**2 * g.mean(axis=0))
    terms = measure.terms(output, values(task.target), torch.arange(6))
    assert terms.tolist() == pytest.approx([low_rank, diagonal], rel=1e-3)
    measure.first = terms / torch.tensor([2.0, 4.0])
    assert float(measure.loss(terms)) == pytest.approx(1.5 * 2 + 0.5 * 4)


@pytest.mark.parametrize(
    ("rank", "iterations", "moments"), [(5, 20, [0, 4, 8, 12, 16]), (3, 10, [0, 3, 6]), (15, 4, [0, 1, 2, 3])]
)
def test_moments_are_spread_over_the_course(workspace: Make, rank: int, iterations: int, moments: list[int]) -> None:
    work, task = made(workspace, 1, count=2)
    measure = Dplr(rank=rank).of(work, task)
    found = []
    for number in range(iterations):
        if measure.due(number, iterations):
            measure.refresh()
            found.append(number)
    assert found == moments


def test_learned_with_drop_and_soft_roundings_it_is_measured_without_drop(workspace: Make) -> None:
    """At each moment the loss begins at the sum of its weights, and falls in between."""
    work, _ = made(workspace, 1)
    work.curves.clear()
    options = {"rank": 2}
    learn = {"do": "reconstruct", "learn": ["rounding", "activation_scales"], "input": "qdrop", "lr_rounding": 0.05}
    run(
        work, learn | {"loss": "dplr", "loss_options": options, "iterations": 20, "batch_size": 6, "rounding_weight": 0}
    )
    curve = work.curves["blocks.0"][0]
    assert curve[[0, 10]].tolist() == pytest.approx([2.0, 2.0], rel=1e-4)
    assert float(curve[5:10].mean()) != pytest.approx(2.0)
    assert all(site.left is None for site in work.model.sites.values())


@pytest.mark.parametrize(
    ("options", "key", "valid"),
    [
        ({"loss": "dplr", "loss_options": {"rnak": 2}}, "loss_options.rnak", "rank"),
        ({"loss": "dplr", "loss_options": {"rank": 0}}, "loss_options.rank", None),
        ({"loss": "dplr", "loss_options": {"low_rank": 0, "diagonal": 0}}, "loss_options.low_rank", None),
        ({"loss": "mse", "loss_options": {"rank": 2}}, "loss_options", "dplr"),
        ({"loss": "dlpr"}, "loss", "dplr"),
    ],
)
def test_options_that_the_loss_does_not_have_are_refused(
    workspace: Make, options: dict[str, Any], key: str, valid: str | None
) -> None:
    work, _ = made(workspace, 1, count=2)
    step, problems = parse_step("learn", {"do": "reconstruct", **options})
    assert step is not None, problems
    (problem,) = step.check(work.config)
    assert isinstance(problem, Problem)
    assert is_about(problem, key=key, valid=[] if valid is None else [valid])
