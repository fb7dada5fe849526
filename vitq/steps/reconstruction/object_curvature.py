"""Derivatives of a detector's divergence at a segment's outputs, through the full-precision segments behind it.

Images have their own sizes, so all goes image by image. A value is a tuple of tensors: what the segment made, and what
it hands on (`made`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from vitq.device import exact_attention
from vitq.steps.reconstruction.curvature import Direction, signs_of
from vitq.steps.reconstruction.segment_task import SegmentTask
from vitq.steps.step import Workspace
from vitq.steps.stream import Stream
from vitq.steps.value_stream import Value, ValueStream, made

# Step of the difference that gives J·v, in units of the root mean square of what the segment made.
_STEP = 1e-2


class Suffix:
    """The full-precision segments behind segment `index`, up to what the heads read, and the heads' comparison."""

    def __init__(self, work: Workspace, index: int):
        assert work.teacher.comparison is not None
        self.comparison = work.teacher.comparison
        self._segments = work.teacher.segments[index + 1 : -1]

    def last(self, value: Any) -> Any:
        """What the heads read, for an output of the segment."""
        for segment in self._segments:
            value = segment.forward(value)
        return value

    @torch.no_grad()
    def exact(self, target: Any) -> tuple[Any, Any]:
        """Boxes of the full-precision network, and what it gives there, for the segment's full-precision output."""
        value = self.last(target)
        boxes = self.comparison.fixed(value)
        return boxes, self.comparison.dense(value, boxes)


def by_channel(x: Tensor, task: SegmentTask) -> Tensor:
    """(positions, channels) of a tensor of a segment's output."""
    return x.movedim(task.segment.channel, -1).flatten(0, -2)


def onto(given: Any, output: tuple[Tensor, ...], target: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A segment's output for `given`, with what it hands on as the full-precision network has it."""
    own = made(given, output)
    return tuple(
        value if any(value is tensor for tensor in own) else wanted
        for value, wanted in zip(output, target, strict=True)
    )


def pairs(output: tuple[Tensor, ...], target: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    """What the segment made, float32, beside its target. output: of `onto`."""
    both = [(value, wanted) for value, wanted in zip(output, target, strict=True) if value is not wanted]
    return [(value.float(), wanted) for value, wanted in both if wanted.is_floating_point()]


def images_of(*streams: Stream) -> Iterator[tuple[Any, ...]]:
    """The values of several streams, one image at a time."""
    for index in torch.arange(len(streams[0])).split(1):
        yield tuple(stream.select(index) for stream in streams)


def moments(
    work: Workspace, task: SegmentTask, temperature: float, reads: Literal["fp", "quantized"] = "fp"
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """For each calibration image Δz = ẑ − z and the gradient of the divergence at ẑ, (1, …) float32, of each tensor
    that the segment made. See `curvature.moments`."""
    suffix = Suffix(work, task.index)
    for given, target in images_of(task.exact if reads == "fp" else task.noisy, task.target):
        boxes, exact = suffix.exact(target)
        with torch.no_grad():
            output = onto(given, task.segment.forward(given), target)
        leaves = [value.detach().requires_grad_(True) for value, _ in pairs(output, target)]
        with torch.enable_grad(), exact_attention(work.device):
            outputs = suffix.comparison.dense(suffix.last(_replaced(output, target, leaves)), boxes)
            distance = suffix.comparison.divergence(exact, outputs, temperature)
        gradients = torch.autograd.grad(distance, leaves)
        targets = [wanted for _, wanted in pairs(output, target)]
        yield [(leaf.detach() - wanted, slope) for leaf, wanted, slope in zip(leaves, targets, gradients, strict=True)]


def importance(
    work: Workspace, index: int, inputs: Stream, targets: Stream, temperature: float, direction: Direction
) -> ValueStream:
    """|H·v| of each image, as `products` gives them, with mean 1 over all. Images of other sizes have no elements in
    common whose mean could be taken."""
    stream = ValueStream(work, len(targets))
    total = torch.zeros((), dtype=torch.float64, device=work.device)
    for product in products(work, index, inputs, targets, temperature, direction):
        stream.append([tuple(tensor.abs() for tensor in product)])
        total += torch.stack([tensor.abs().sum(dtype=torch.float64) for tensor in product]).sum()
    stream.scale(1 / max(float(total) / stream.elements(), torch.finfo(torch.float64).tiny))
    return stream


def products(
    work: Workspace, index: int, inputs: Stream, targets: Stream, temperature: float, direction: Direction = "signs"
) -> Iterator[list[Tensor]]:
    """For each image H·v, (1, …) float32, of each tensor that segment `index` makes of its full-precision inputs.

    H: Hessian of the divergence at the full-precision output. There the divergence is least, so H = Jᵀ·D·J with J the
    derivative of what the network gives at its boxes, D the second derivative of the divergence in that. J·v is a
    central difference, since the pooling of boxes (RoIAlign) has no second derivative; D and Jᵀ are exact. v: as in
    `curvature.products`.
    """
    suffix, segment = Suffix(work, index), work.teacher.segments[index]
    generator = torch.Generator().manual_seed(work.config.seed * 1_000_003 + index)
    for given, target in images_of(inputs, targets):
        boxes, exact = suffix.exact(target)
        with torch.no_grad():
            output = onto(given, segment.forward(given), target)
        z = [wanted for _, wanted in pairs(output, target)]
        v = [torch.ones_like(t) if direction == "ones" else signs_of(t, generator) for t in z]
        square = torch.stack([t.double().square().sum() for t in z]).sum() / sum(t.numel() for t in z)
        step = (_STEP * square.sqrt()).clamp(min=torch.finfo(torch.float32).tiny).float()

        def given_at(values: list[Tensor], boxes: Any = boxes, output: Any = output, target: Any = target) -> Any:
            return suffix.comparison.dense(suffix.last(_replaced(output, target, values)), boxes)

        with torch.no_grad():
            plus, minus = (given_at([t + sign * step * w for t, w in zip(z, v, strict=True)]) for sign in (1, -1))
            along = [(a - b) / (2 * step) for a, b in zip(plus, minus, strict=True)]
        weighted = _second(suffix, exact, along, temperature)
        leaves = [t.detach().requires_grad_(True) for t in z]
        with torch.enable_grad(), exact_attention(work.device):
            outputs = given_at(leaves)
        # Masks of an image without an object depend on nothing.
        ends = [(tensor, u) for tensor, u in zip(outputs, weighted, strict=True) if tensor.requires_grad]
        yield list(torch.autograd.grad([tensor for tensor, _ in ends], leaves, [u for _, u in ends]))


def _second(suffix: Suffix, exact: Any, along: list[Tensor], temperature: float) -> list[Tensor]:
    """D·u, for u of the shapes of what the network gives."""
    with torch.enable_grad():
        here = [tensor.detach().requires_grad_(True) for tensor in exact]
        distance = suffix.comparison.divergence(exact, type(exact)(*here), temperature)
        slopes = torch.autograd.grad(distance, here, create_graph=True, materialize_grads=True)
        curved = [(slope, u) for slope, u in zip(slopes, along, strict=True) if slope.requires_grad]
        return list(torch.autograd.grad([s for s, _ in curved], here, [u for _, u in curved], materialize_grads=True))


def _replaced(output: tuple[Tensor, ...], target: Value | Any, values: list[Tensor]) -> tuple[Tensor, ...]:
    """`output` of `onto` with other values of what the segment made."""
    left = iter(values)
    return tuple(next(left) if value is not wanted else wanted for value, wanted in zip(output, target, strict=True))
