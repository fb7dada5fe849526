"""The rounding regularizer inside reconstruction: its value and its gradient, iteration by iteration, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import part, run, tiny, uniform
from vitq.quant.rounding import LearnedRounding
from vitq.steps import Workspace

Make = Callable[..., Workspace]
UNIFORM = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
ITERATIONS = 10
WEIGHT = 0.3


class Standing(torch.optim.Adam):
    """Adam that takes no step: every iteration's gradients are those of the start."""

    seen: list[list[Tensor]]

    def step(self, *_: Any) -> None:  # type: ignore[override]
        self.seen.append([p.grad.clone() for group in self.param_groups for p in group["params"]])


def expected(logits: list[Tensor], iteration: int, along: str) -> tuple[float, list[Tensor]]:
    """Value and gradients of WEIGHT·Σ 1 − |2h − 1|^β (AdaRound, eq. 23 and 24), zero for a fifth of the iterations."""
    progress = iteration / ITERATIONS
    if progress < 0.2:
        return 0.0, [torch.zeros_like(v) for v in logits]
    done = (progress - 0.2) / 0.8
    beta = 2 + 18 * (0.5 * (1 + math.cos(math.pi * done)) if along == "cosine" else 1 - done)
    leaves = [v.clone().requires_grad_(True) for v in logits]
    shares = [(torch.sigmoid(v) * (1.1 + 0.1) - 0.1).clamp(0, 1) for v in leaves]
    loss = WEIGHT * torch.stack([(1 - (2 * h - 1).abs() ** beta).sum() for h in shares]).sum()
    return float(loss.detach()), list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("along", ["cosine", "linear"])
def test_the_regularizer_adds_its_value_and_its_gradient(
    workspace: Make, monkeypatch: pytest.MonkeyPatch, along: str
) -> None:
    """Two runs over the same batches, one without it: their difference is the regularizer alone."""
    gradients: dict[float, list[list[Tensor]]] = {}
    curves: dict[float, Tensor] = {}
    for weight in (0.0, WEIGHT):
        work = workspace(tiny("vit"), UNIFORM, images=8, weight=3, activation=4)
        run(work, {"do": "calibrate"})
        start = [
            LearnedRounding(uniform(work, f"{name}.weight"), part(work.model.model, name).weight.detach())
            for name in (f"blocks.0.{layer}" for layer in LAYERS)
        ]
        Standing.seen = []
        monkeypatch.setattr(torch.optim, "Adam", Standing)
        options = {"iterations": ITERATIONS, "batch_size": 8, "rounding_weight": weight, "annealing": along}
        run(work, {"do": "reconstruct", "learn": ["rounding"], **options})
        gradients[weight] = Standing.seen[ITERATIONS : 2 * ITERATIONS]  # patch embedding first
        (curves[weight],) = work.curves["blocks.0"]
    logits = [rounding.logits.detach().double() for rounding in start]
    for iteration in range(ITERATIONS):
        value, slopes = expected(logits, iteration, along)
        added = float(curves[WEIGHT][iteration] - curves[0.0][iteration])
        assert added == pytest.approx(value, rel=1e-3, abs=1e-3)
        for with_it, without, slope in zip(
            gradients[WEIGHT][iteration], gradients[0.0][iteration], slopes, strict=True
        ):
            assert torch.allclose((with_it - without).double(), slope, atol=2e-4 * max(1.0, float(slope.abs().max())))
