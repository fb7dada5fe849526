"""Ways of reconstructing, and how far a network lies from its full precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.tiny import images
from vitq.steps import Workspace

Make = Callable[..., Workspace]


UNIFORM = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}


CALIBRATE = {"do": "calibrate"}


def reconstruct(**more: Any) -> dict[str, Any]:
    return {"do": "reconstruct", "iterations": 30, "batch_size": 8, "lr": 1e-3, "lr_scales": 1e-3} | more


@torch.no_grad()
def output(work: Workspace) -> Tensor:
    out: Tensor = work.model(images(work))
    return out


def exact(work: Workspace) -> Tensor:
    with torch.no_grad():
        x = images(work)
        for segment in work.teacher.segments:
            x = segment.forward(x)
    return x


def error(work: Workspace) -> float:
    return float((output(work) - exact(work)).square().mean())


WAYS: dict[str, dict[str, Any]] = {
    "weights": {"learn": ["weights", "bias"]},
    "rounding": {"learn": ["rounding"], "lr_rounding": 0.05},
    # Steps of a hundredth of a scale, and enough of them: blocks gain in every case, the network gains by 23 % here.
    # Zero points stay within half a code of where they were; how they move has a test of its own.
    "scales": {
        "learn": ["activation_scales", "weight_scales", "zero_points"],
        "lr_scales": 5e-4,
        "lr_zero_points": 5e-4,
        "iterations": 80,
    },
    "rounding and activation scales": {
        "learn": ["rounding", "activation_scales"],
        "input": "qdrop",
        "lr_rounding": 0.05,
    },
    "full-precision input": {"learn": ["weights"], "input": "fp"},
    "fisher": {"learn": ["weights", "bias"], "loss": "fisher_diag"},
    "hessian": {"learn": ["weights", "bias"], "loss": "hessian"},
    "token_channel": {"learn": ["weights", "bias"], "loss": "token_channel"},
    "dplr": {"learn": ["weights", "bias"], "loss": "dplr", "loss_options": {"rank": 1}},
    "perturbation_hessian": {"learn": ["weights", "bias"], "loss": "perturbation_hessian"},
    "least_squares_hessian": {"learn": ["weights", "bias"], "loss": "least_squares_hessian"},
    "global_local": {"learn": ["weights", "bias"], "loss": "global_local"},
}
