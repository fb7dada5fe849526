"""First and second derivatives of KL at a segment's outputs, through the full-precision segments behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitq.device import exact_attention
from vitq.steps.reconstruction.loss import divergence
from vitq.steps.reconstruction.segment_task import SegmentTask
from vitq.steps.step import Workspace


def following(work: Workspace, index: int, output: Tensor) -> Tensor:
    """Logits (B, classes) of the full-precision segments behind segment `index`, for its outputs (B, …)."""
    for segment in work.teacher.segments[index + 1 :]:
        output = segment.forward(output)
    return output


def moments(
    work: Workspace, task: SegmentTask, temperature: float, reads: Literal["fp", "quantized"] = "fp"
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each batch of calibration images Δz = ẑ − z and ∂KL(p ‖ q)/∂ẑ, (B, …) float32: KL of each image.

    z: the segment's full-precision output, ẑ: its output as it stands. p, q: softmaxes at a temperature of what the
    full-precision network makes of them. reads: its inputs of the `fp` network, or those that it learns from.
    """
    inputs = task.exact if reads == "fp" else task.noisy
    for given, target in zip(inputs.batches(), task.target.batches(), strict=True):
        with torch.no_grad():
            wanted = following(work, task.index, target)
            output = task.segment.forward(given).detach()
        output.requires_grad_(True)
        with torch.enable_grad(), exact_attention(work.device):
            loss = len(output) * divergence(wanted, following(work, task.index, output), temperature)
        (gradient,) = torch.autograd.grad(loss, output)
        yield output.detach() - target, gradient


def row_sums(
    work: Workspace, index: int, outputs: Iterator[Tensor], temperature: float, epsilon: float | None = None
) -> Iterator[Tensor]:
    """For each batch of full-precision outputs z of segment `index`, (B, …): rows of the Hessian of KL, summed.

    KL(p(z) ‖ p(z + δ)) of each image, softmaxes at a temperature, its Hessian H in δ at 0: gives H·1, (B, …) float32.
    epsilon: None: exactly, a Hessian-vector product (Pearlmutter 1994). A number ε: (g(ε) − g(−ε))/2ε, g the gradient
    at δ = ε·1 in float32, where an ε below half an ulp of an element is lost.
    """
    for output in outputs:
        z = output.detach()
        if epsilon is None:
            # The fused kernels of attention have no second derivative.
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                z.requires_grad_(True)
                logits = following(work, index, z)
                loss = len(z) * divergence(logits.detach(), logits, temperature)
                (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
                (product,) = torch.autograd.grad(gradient.sum(), z)
            yield product
            continue
        with torch.no_grad():
            wanted = following(work, index, z)
        ends = []
        for sign in (1.0, -1.0):
            moved = (z + sign * epsilon).requires_grad_(True)
            with torch.enable_grad(), exact_attention(work.device):
                loss = len(z) * divergence(wanted, following(work, index, moved), temperature)
            ends.append(torch.autograd.grad(loss, moved)[0])
        yield (ends[0] - ends[1]) / (2 * epsilon)


def importance(
    work: Workspace, index: int, outputs: Iterator[Tensor], temperature: float, epsilon: float | None = None
) -> Tensor:
    """H̄, the shape of one image's output, mean 1: the mean over images of |H·1| (`row_sums`)."""
    total = torch.zeros((), dtype=torch.float64)
    for rows in row_sums(work, index, outputs, temperature, epsilon):
        total = total.to(rows.device) + rows.abs().sum(dim=0, dtype=torch.float64)
    return (total / total.mean().clamp(min=torch.finfo(total.dtype).tiny)).float()
