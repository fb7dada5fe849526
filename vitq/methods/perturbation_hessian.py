"""APHQ-ViT's loss: squared errors weighted by the average perturbation Hessian (CVPR 2025)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitq.config import RunConfig
from vitq.errors import Problem, bad
from vitq.steps.reconstruction import object_curvature as objects
from vitq.steps.reconstruction.curvature import Direction, shared_importance
from vitq.steps.reconstruction.objective import Measure, Objective, register_objective
from vitq.steps.reconstruction.segment_task import SegmentTask
from vitq.steps.step import Positive, Workspace
from vitq.steps.stream import Stream
from vitq.steps.waiting import Waiting


@register_objective("perturbation_hessian")
class PerturbationHessian(Objective):
    """2·L/L⁰ with L = mean(H̄·Δz²), H̄ the mean over all calibration images of |H·v|, H the Hessian of KL.

    Public code adds ε = 1e-6 to all elements of a segment's full-precision output at once, v = 1, and takes
    |g(z + ε) − g(z − ε)|, g the gradient of KL through the full-precision network. But behind a residual stream whose
    readers all have a LayerNorm a common shift changes nothing, H·1 = 0: what public code averages is the rounding
    error of g, which is larger where g is more sensitive.

    direction: `signs`: v = ±1, drawn for each image [I]; H̄ are then norms of H's rows, in the mean. `ones`: as public
    code. epsilon: None: H·v exactly; a number: differences in float32, public code's 1e-6. temperature: of KL's
    softmaxes.

    Of a detector H is that of its divergence, and each image has weights of its own, |H·v| of it: images of other sizes
    have no elements in common [I].
    """

    temperature: Positive = 20.0
    direction: Direction = "signs"
    epsilon: Positive | None = None

    def of(self, work: Workspace, task: SegmentTask) -> Measure:
        options = self.temperature, self.direction, self.epsilon
        return Weighted(shared_importance(work, task.index, task.target, *options))

    def of_objects(self, work: Workspace, task: SegmentTask) -> Measure:
        weights = objects.importance(work, task.index, task.exact, task.target, self.temperature, self.direction)
        return OwnWeights(weights)

    def waiting(self, waiting: Waiting, index: int) -> int:
        return waiting.made[index]  # the weights

    def check(self, config: RunConfig) -> list[Problem]:
        if self.epsilon is None or not config.finds_objects:
            return []
        return [bad("loss_options.epsilon", self.epsilon, "of detectors H·v is taken exactly; set it to null", [None])]


class Weighted(Measure):
    """Squared errors weighted by element, the same for all images. weight: the shape of one image's output."""

    weights = (2.0,)

    def __init__(self, weight: Tensor):
        super().__init__()
        self._weight = weight

    def terms(self, output: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
        return ((output - target).square() * self._weight).mean().unsqueeze(0)


class OwnWeights(Measure):
    """Squared errors weighted by element, each image's by its own weights. weights: a stream of them."""

    weights = (2.0,)

    def __init__(self, weights: Stream):
        super().__init__()
        self._weights = weights

    def terms(self, output: Any, target: Any, chosen: Tensor) -> Tensor:
        errors = [value - wanted for value, wanted in objects.pairs(output, target)]
        weighted = [(e.square() * w).sum() for e, w in zip(errors, self._weights.select(chosen), strict=True)]
        return torch.stack(weighted).sum().div(sum(error.numel() for error in errors)).unsqueeze(0)
