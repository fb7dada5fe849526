"""First and second derivatives of KL at a segment's outputs, through the full-precision segments behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitq.device import exact_attention
from vitq.steps.reconstruction.loss import divergence
from vitq.steps.reconstruction.segment_task import SegmentTask
from vitq.steps.step import Workspace
from vitq.steps.stream import Stream

Direction = Literal["signs", "ones"]


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


def products(
    work: Workspace,
    index: int,
    outputs: Iterable[Tensor],
    temperature: float,
    direction: Direction = "signs",
    epsilon: float | None = None,
) -> Iterator[Tensor]:
    """For each batch of full-precision outputs z of segment `index`, (B, …): H·v of each image, (B, …) float32.

    H: Hessian in δ at 0 of KL(p(z) ‖ p(z + δ)), softmaxes at a temperature. v: random `signs` (`signs_of`), or `ones`.
    LayerNorm takes a common shift of a token away, so where every reader of the stream has one, H·1 is 0 and what comes
    out is rounding errors. epsilon: None: exactly, a Hessian-vector product (Pearlmutter 1994). A number ε:
    (g(ε) − g(−ε))/2ε, g the gradient at δ = ε·v in float32, where an ε below half an ulp of an element is lost.
    """
    generator = torch.Generator().manual_seed(work.config.seed * 1_000_003 + index)
    for output in outputs:
        z = output.detach()
        v = torch.ones_like(z) if direction == "ones" else signs_of(z, generator)
        if epsilon is None:
            yield _exactly(work, index, z, v, temperature)
        else:
            yield _by_difference(work, index, z, v, temperature, epsilon)


def shared_importance(
    work: Workspace,
    index: int,
    outputs: Stream,
    temperature: float,
    direction: Direction,
    epsilon: float | None,
) -> Tensor:
    """`importance` of the full-precision outputs of segment `index`, taken once for all steps that want the same."""
    key = ("importance", work.coordinates, index, temperature, direction, epsilon)
    if key not in work.derivatives:
        given = products(work, index, outputs.batches(), temperature, direction, epsilon)
        work.derivatives[key] = importance(given)
    return work.derivatives[key]


def importance(products: Iterable[Tensor]) -> Tensor:
    """H̄, float32 of the shape of one image's output, mean 1: the mean over images of |H·v|, given batch by batch."""
    total = torch.zeros((), dtype=torch.float64)
    for product in products:
        total = total.to(product.device) + product.abs().sum(dim=0, dtype=torch.float64)
    return (total / total.mean().clamp(min=torch.finfo(total.dtype).tiny)).float()


def signs_of(z: Tensor, generator: torch.Generator) -> Tensor:
    """±1 for each element of z, drawn on the CPU."""
    return torch.randint(0, 2, z.shape, generator=generator).mul(2).sub(1).to(z)


def _exactly(work: Workspace, index: int, z: Tensor, v: Tensor, temperature: float) -> Tensor:
    # The fused kernels of attention have no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        z.requires_grad_(True)
        logits = following(work, index, z)
        loss = len(z) * divergence(logits.detach(), logits, temperature)
        (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
        return torch.autograd.grad(gradient, z, v)[0]


def _by_difference(work: Workspace, index: int, z: Tensor, v: Tensor, temperature: float, epsilon: float) -> Tensor:
    with torch.no_grad():
        wanted = following(work, index, z)
    ends = []
    for sign in (1.0, -1.0):
        moved = (z + sign * epsilon * v).requires_grad_(True)
        with torch.enable_grad(), exact_attention(work.device):
            loss = len(z) * divergence(wanted, following(work, index, moved), temperature)
        ends.append(torch.autograd.grad(loss, moved)[0])
    return (ends[0] - ends[1]) / (2 * epsilon)
