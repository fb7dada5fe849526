"""Gradients of the task at the outputs of every segment: what the Fisher-weighted reconstruction losses weigh with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitq.device import exact_attention
from vitq.models.structure import FixedBoxComparison
from vitq.steps.step import Workspace
from vitq.steps.stream import Stream, TensorStream
from vitq.steps.value_stream import ValueStream, made


def gradients(work: Workspace) -> list[Stream]:
    """One stream for each segment: ∂ log p(y|x)/∂z at its output z, (images, …) float32, for every calibration image.

    y is drawn from the full-precision model's own prediction p(·|x), one draw an image, seeded; so the mean of g² is
    the diagonal of the true Fisher information, which to second order is the Hessian of KL(full precision ‖ quantized)
    in z (BRECQ, arXiv 2102.05426, section 3.3; the labels of the calibration set are not used). One forward and one
    backward for each batch; each stream is scaled by one factor, so that the mean of g² is 1. Of a detector the
    answers are drawn at its own boxes (`FixedBoxComparison.likelihood`), and a stream holds what `made` lists.
    """
    if work.teacher.comparison is not None:
        return _of_objects(work, work.teacher.comparison)
    segments = work.teacher.segments
    generator = torch.Generator().manual_seed(work.config.seed)
    streams = [TensorStream(work, len(work.calib)) for _ in segments]
    squares = [0.0] * len(segments)
    for x in work.batches():
        outputs = []
        with torch.enable_grad(), exact_attention(work.device):
            for segment in segments:
                # A leaf between two segments: the gradient reaches every output, and no parameter gets one.
                x = segment.forward(x)
                if not x.requires_grad:
                    x = x.detach().requires_grad_(True)
                outputs.append(x)
            gradients_of_outputs = torch.autograd.grad(likelihood(x, generator), outputs)
        for index, gradient in enumerate(gradients_of_outputs):
            streams[index].append(gradient.detach())
            squares[index] += float(gradient.double().square().sum())
    for index, stream in enumerate(streams):
        count = stream.elements()
        stream.scale(1.0 if squares[index] == 0 else (squares[index] / count) ** -0.5)
    return list(streams)


def _of_objects(work: Workspace, comparison: FixedBoxComparison) -> list[Stream]:
    """Of a detector, image by image; the heads, whose outputs are objects, have none."""
    segments = work.teacher.segments[:-1]
    generator = torch.Generator().manual_seed(work.config.seed)
    streams = [ValueStream(work, len(work.calib)) for _ in segments]
    squares = [torch.zeros((), dtype=torch.float64, device=work.device) for _ in segments]
    for image in (batch[index : index + 1] for batch in work.batches() for index in range(len(batch))):
        value: Any = image
        outputs: list[list[Tensor]] = []
        with torch.enable_grad(), exact_attention(work.device):
            for segment in segments:
                given, value = value, segment.forward(value)
                # A leaf behind the first segment: the gradient reaches every output, and no parameter gets one.
                value = tuple(_leaf(tensor) for tensor in value)
                outputs.append(made(given, value))
            dense = comparison.dense(value, comparison.fixed(value))
            flat = [tensor for tensors in outputs for tensor in tensors]
            slopes = iter(torch.autograd.grad(comparison.likelihood(dense, generator), flat))
        for index, tensors in enumerate(outputs):
            own = tuple(next(slopes).detach() for _ in tensors)
            streams[index].append(own)
            squares[index] += torch.stack([slope.double().square().sum() for slope in own]).sum()
    for index, stream in enumerate(streams):
        square = float(squares[index])
        stream.scale(1.0 if square == 0 else (square / stream.elements()) ** -0.5)
    return [*streams, ValueStream(work, 0)]


def _leaf(tensor: Tensor) -> Tensor:
    if tensor.requires_grad or not tensor.is_floating_point():
        return tensor
    return tensor.detach().requires_grad_(True)


def likelihood(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Σ log p(y|x) over a batch, for logits (B, classes); y is drawn from p(·|x), one for each image, on the CPU."""
    drawn = torch.multinomial(logits.detach().softmax(dim=-1).cpu(), 1, generator=generator).to(logits.device)
    return logits.log_softmax(dim=-1).gather(1, drawn).sum()


def diagonal(error: Tensor, gradient: Tensor) -> Tensor:
    """Δzᵀ·diag(g²)·Δz of each image: (B,) for error and gradient (B, …)."""
    return (error * gradient).square().flatten(1).sum(dim=1)


def rank_one(error: Tensor, gradient: Tensor) -> Tensor:
    """Δzᵀ·g·gᵀ·Δz of each image: (B,)."""
    return (error * gradient).flatten(1).sum(dim=1).square()
