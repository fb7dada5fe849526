"""What reconstruction weighs its loss with belongs to the images of the batch, and to the tensor that was asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.tiny import part, run, tiny
from vitq.steps import Workspace
from vitq.steps.reconstruction.loss import LOSSES, imbalance

Make = Callable[..., Workspace]
UNIFORM = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}
Seen = list[tuple[Tensor, Tensor]]


def watched(monkeypatch: pytest.MonkeyPatch, loss: str) -> Seen:
    """(target, weight) of every call of a loss."""
    seen: Seen = []
    plain = LOSSES[loss]

    def keep(output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        seen.append((target, weight))
        return plain(output, target, weight)

    monkeypatch.setattr(LOSSES, "_items", {**LOSSES._items, loss: keep})
    return seen


def test_fisher_gradients_belong_to_their_images(workspace: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the logits a gradient is c·(onehot(y) − p) with the image's own p, in batches drawn in any order."""
    seen = watched(monkeypatch, "fisher_diag")
    work = workspace(tiny("vit"), UNIFORM, images=16, weight=4, activation=4)
    run(work, {"do": "calibrate"})
    run(work, {"do": "reconstruct", "loss": "fisher_diag", "iterations": 2, "batch_size": 8})
    at_the_logits = [(target.double(), gradient.double()) for target, gradient in seen if target.ndim == 2]
    assert len(at_the_logits) >= 2
    for logits, gradients in at_the_logits:
        for prediction, gradient in zip(logits.softmax(-1), gradients, strict=True):
            drawn = gradient.argmax()
            expected = torch.nn.functional.one_hot(drawn, len(prediction)) - prediction
            factor = float(gradient @ expected / expected.square().sum())
            assert torch.allclose(gradient, factor * expected, atol=1e-4 * abs(factor))


@pytest.mark.parametrize("by", ["inputs", "targets"])
def test_a_block_weighs_by_what_it_reads_or_by_its_target(
    workspace: Make, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    seen = watched(monkeypatch, "token_channel")
    work = workspace(tiny("vit"), UNIFORM, images=8, weight=3, activation=4)
    run(work, {"do": "calibrate"})
    read: dict[int, list[Tensor]] = {0: [], 1: []}
    for index, inputs in read.items():
        part(work.model.model, f"blocks.{index}").register_forward_pre_hook(
            lambda _, x, inputs=inputs: inputs.append(x[0].detach().clone())
        )
    options = {"iterations": 1, "batch_size": 8, "micro_batch": 8, "compile": "off"}
    run(work, {"do": "reconstruct", "loss": "token_channel", "weigh_by": by, **options})
    # One call for each segment: patch embedding, two blocks, head.
    assert len(seen) == 4
    for index, inputs in read.items():
        target, weight = seen[1 + index]
        # The first evaluation of a block is that of its only iteration.
        wanted, other = (inputs[0], target) if by == "inputs" else (target, inputs[0])
        assert torch.equal(weight, imbalance(wanted))
        assert not torch.allclose(weight, imbalance(other), rtol=1e-2), "the two can be told apart"
