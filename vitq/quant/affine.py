"""Affine arithmetic of uniform quantizers: the round trip of values through codes, and its gradients.

    x̂ = s·(clamp(round(x/s) + z, 0, codes − 1) − z)

x, scale and zero point broadcast and are float32; the result has the shape of x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Least scale: 1/s stays finite in float32.
LEAST_SCALE = 1e-30


def round_trip(x: Tensor, scale: Tensor, zero: Tensor, codes: int) -> Tensor:
    """x̂. Only x has a gradient: 1 inside the range, 0 where it is clipped."""
    if x.requires_grad:
        clipped: Tensor = _ClippedStraightThrough.apply(x, scale, zero, codes)
        return clipped
    return (x * scale.reciprocal()).round_().add_(zero).clamp_(0, codes - 1).sub_(zero).mul_(scale)


def lsq_round_trip(
    x: Tensor, scale: Tensor, zero: Tensor, codes: int, factor: float = 1.0, tight: bool = False
) -> Tensor:
    """x̂ with gradients to x, scale and zero point (LSQ, arXiv 1902.08153, eq. 3; LSQ+ for the zero point).

    A zero point that has a gradient is rounded first: it becomes a code when learning ends.
    tight: the range ends at its last codes, and not half a step beyond them. [I] At three bits the whole network learns
    faster so (docs/notes/2026-11-29-distill.md).
    Inside the range ∂x̂/∂x = 1, ∂x̂/∂s = round(x/s) − x/s, ∂x̂/∂z = 0; where x is clipped to code q: 0, q − z, −s.
    Gradients of scale and zero point are multiplied by `factor`, see `lsq_factor`.
    """
    learned: Tensor = _LearnedStep.apply(x, scale, zero, codes, factor, tight)
    return learned


def lsq_factor(shared: int, codes: int) -> float:
    """1/√(n·(2^b − 1)), n (`shared`) the number of weights that share a scale, or of features (section 2.2).

    Features are elements of one image or window, so that parts of a batch add up to the batch.
    """
    factor: float = (shared * (codes - 1)) ** -0.5
    return factor


class _ClippedStraightThrough(torch.autograd.Function):
    """Round trip whose gradient is 1 where x is inside the range and 0 where it is clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, codes: int) -> Tensor:
        raw = (x * scale.reciprocal()).round_().add_(zero)
        ctx.save_for_backward((raw >= 0) & (raw <= codes - 1))
        return raw.clamp_(0, codes - 1).sub_(zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


class _LearnedStep(torch.autograd.Function):
    """See `lsq_round_trip`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, codes: int, factor: float, tight: bool) -> Tensor:
        # One that is learned becomes a code when learning ends; one that is not stays as the step before left it.
        if ctx.needs_input_grad[2]:
            zero = zero.round()
        ratio = x * scale.reciprocal()
        raw = ratio.round().add_(zero)
        code = raw.clamp(0, codes - 1)
        inside = (ratio >= -zero) & (ratio <= codes - 1 - zero) if tight else raw == code
        ctx.save_for_backward(inside, torch.where(inside, code - zero - ratio, code - zero), scale, zero)
        ctx.factor = factor
        return code.sub_(zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inside, slope, scale, zero = ctx.saved_tensors
        gradient = gradients[0]
        passed = gradient * inside
        of_scale = of_zero = None
        if ctx.needs_input_grad[1]:
            of_scale = (gradient * slope).sum_to_size(scale.shape) * ctx.factor
        if ctx.needs_input_grad[2]:
            of_zero = ((gradient - passed) * -scale).sum_to_size(zero.shape) * ctx.factor
        return passed, of_scale, of_zero, None, None, None
