"""LS-ViT's loss: a diagonal and a rank-one Hessian fitted to gradients by least squares (CVPR 2026)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from vitq.steps.reconstruction import object_curvature as objects
from vitq.steps.reconstruction.curvature import moments
from vitq.steps.reconstruction.objective import Measure, Objective, register_objective
from vitq.steps.reconstruction.segment_task import SegmentTask
from vitq.steps.step import Positive, Workspace


@register_objective("least_squares_hessian")
class LeastSquaresHessian(Objective):
    """2·L/L⁰ with L = ½·Σ hᵢ·Δzᵢ² + ½·(uᵀ·Δz)², mean over images: g ≈ H·Δz fitted over all calibration images.

        hᵢ = E[gᵢ·Δzᵢ] / E[Δzᵢ²],  u = E[g·√(Δzᵀg)] / E[Δzᵀg]

    Δz: error of the segment's output before it learns; g: gradient of KL there, through the full-precision network, its
    sign kept. One backward pass. Source: notes on the paper at second hand; no code could be had. Our readings [I]:
    temperature of both softmaxes; reads: Δz is of the segment on full-precision inputs (`fp`) or on those that it
    learns from (`quantized`); negative: what is below zero, hᵢ or Δzᵀg of an image, counts as 0 (`zero`) or, for hᵢ,
    is kept (`keep`), which leaves the loss without a least value; the sum is relative, times 2, as APHQ-ViT's.

    Of a detector E runs over positions too, since images of other sizes have none in common: h and u have a number for
    each channel of each tensor that the segment makes.
    """

    temperature: Positive = 20.0
    reads: Literal["fp", "quantized"] = "fp"
    negative: Literal["zero", "keep"] = "zero"

    def of(self, work: Workspace, task: SegmentTask) -> Measure:
        zero = torch.zeros((), dtype=torch.float64, device=work.device)
        both, square, leaning, curvature = zero, zero, zero, zero
        for error, gradient in moments(work, task, self.temperature, self.reads):
            error, gradient = error.double().flatten(1), gradient.double().flatten(1)
            along = (error * gradient).sum(dim=1).clamp(min=0)
            both = both + (error * gradient).sum(dim=0)
            square = square + error.square().sum(dim=0)
            leaning = leaning + (gradient * along.sqrt().unsqueeze(1)).sum(dim=0)
            curvature = curvature + along.sum()
        return _Fitted(*self._fit(both, square, leaning, curvature))

    def of_objects(self, work: Workspace, task: SegmentTask) -> Measure:
        sums = []
        for image in objects.moments(work, task, self.temperature, self.reads):
            errors, slopes = ([_last(part.double(), task) for part in parts] for parts in zip(*image, strict=True))
            products = [(error * slope).sum(dim=0) for error, slope in zip(errors, slopes, strict=True)]
            along = torch.cat(products).sum().clamp(min=0)
            squares = torch.cat([error.square().sum(dim=0) for error in errors])
            leaning = torch.cat([slope.mean(dim=0) for slope in slopes]) * along.sqrt()
            sums.append([torch.cat(products), squares, leaning, along])
        return _ByChannel(task, *self._fit(*(torch.stack(parts).sum(dim=0) for parts in zip(*sums, strict=True))))

    def _fit(self, both: Tensor, square: Tensor, leaning: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
        """h and u, float32 (M,), from the sums of g·Δz, Δz², g·√(Δzᵀg), and Δzᵀg."""
        least = torch.finfo(torch.float64).tiny
        diagonal, direction = both / square.clamp(min=least), leaning / curvature.clamp(min=least)
        if self.negative == "zero":
            diagonal = diagonal.clamp(min=0)
        # In units of the diagonal's mean: the loss is relative, and small numbers stay clear of float32's end.
        unit = diagonal.abs().mean().clamp(min=least)
        return (diagonal / unit).float(), (direction / unit.sqrt()).float()


class _Fitted(Measure):
    """diagonal, direction: (M,) h and u, M elements of an image's output."""

    weights = (2.0,)

    def __init__(self, diagonal: Tensor, direction: Tensor):
        super().__init__()
        self._diagonal, self._direction = diagonal, direction

    def terms(self, output: Any, target: Any, chosen: Tensor) -> Tensor:
        error = (output - target).flatten(1)
        halves: Tensor = 0.5 * (error.square() @ self._diagonal + (error @ self._direction).square())
        return halves.mean().unsqueeze(0)


class _ByChannel(_Fitted):
    """diagonal, direction: (M,) of M channels of what a detector's segment makes."""

    def __init__(self, task: SegmentTask, diagonal: Tensor, direction: Tensor):
        super().__init__(diagonal, direction)
        self._task = task

    def terms(self, output: Any, target: Any, chosen: Tensor) -> Tensor:
        errors = [_last(value - wanted, self._task) for value, wanted in objects.pairs(output, target)]
        squares = torch.cat([error.square().sum(dim=0) for error in errors])
        along = torch.cat([error.sum(dim=0) for error in errors])
        return (0.5 * (squares @ self._diagonal + (along @ self._direction).square())).unsqueeze(0)


def _last(x: Tensor, task: SegmentTask) -> Tensor:
    """(positions, channels)."""
    return x.movedim(task.segment.channel, -1).flatten(0, -2)
