"""Reconstruction of a detector's segment: images of a batch have their own sizes, so they go through one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitq.data.padded import Padded
from vitq.models.structure import Segment
from vitq.steps.reconstruction.loss import LOSSES, weights_of
from vitq.steps.reconstruction.object_curvature import onto
from vitq.steps.reconstruction.objective import Measure
from vitq.steps.reconstruction.qdrop import Dropping
from vitq.steps.reconstruction.segment_task import SegmentTask
from vitq.steps.value_stream import made


class Image(NamedTuple):
    """position: int64 (1,). inputs: what the segment reads. wanted: what it is to give. slopes: the task's
    gradient or None."""

    position: Tensor
    inputs: Any
    wanted: Any
    slopes: tuple[Tensor, ...] | None


def backward(
    segment: Segment,
    images: Iterable[Image],
    count: int,
    loss: str,
    weigh_by: str,
    dropping: Dropping | None,
    cast: Callable[[], AbstractContextManager[object]],
    measure: Measure | None,
) -> Tensor:
    """Mean loss of `count` images, its gradients added up. cast: around each forward.

    The plain losses of an image are the sum over the segment's outputs: one for a block, five for a pyramid.
    """

    def output(image: Image) -> tuple[Tensor, ...]:
        if dropping:
            dropping.draw(segment.forward, image.inputs)
            dropping.show(0, 1)
        with cast():
            given: tuple[Tensor, ...] = segment.forward(image.inputs)
        return given

    def terms(image: Image) -> Tensor:
        assert measure is not None
        return measure.terms(onto(image.inputs, output(image), image.wanted), image.wanted, image.position) / count

    if measure is not None and measure.relative and measure.first is None:
        images = list(images)
        with torch.no_grad():
            measure.first = torch.stack([terms(image) for image in images]).sum(dim=0)
    total: Tensor | None = None
    for image in images:
        if measure is not None:
            share = measure.loss(terms(image))
        else:
            losses = [
                LOSSES[loss](
                    own, target, weights_of(loss, _first(image.inputs), target, weigh_by) if slope is None else slope
                )
                for own, target, slope in _learned(segment, image.inputs, output(image), image.wanted, image.slopes)
            ]
            share = torch.stack(losses).sum() / count
        share.backward()
        total = share.detach() if total is None else total + share.detach()
    if total is None:
        raise ValueError("a batch without images")
    return total


def image_of(task: SegmentTask, index: Tensor, drop: float | None, generator: torch.Generator) -> Image:
    """The image at a position. drop: as in `mixed`."""
    inputs = task.noisy.select(index)
    if drop is not None and task.noisy is not task.exact:
        inputs = mixed(inputs, task.exact.select(index), drop, generator)
    slopes = None if task.gradient is None else task.gradient.select(index)
    return Image(index, inputs, task.target.select(index), slopes)


def mixed(quantized: Any, exact: Any, probability: float, generator: torch.Generator) -> Any:
    """Inputs of which each element is the full-precision network's with a probability (QDrop)."""

    def one(noisy: Tensor, clean: Tensor) -> Tensor:
        if noisy is clean or not noisy.is_floating_point():
            return noisy
        keep = torch.rand(noisy.shape, generator=generator, device=noisy.device) < probability
        return torch.where(keep, clean, noisy)

    if isinstance(quantized, Padded):
        return replace(quantized, pixels=one(quantized.pixels, exact.pixels))
    return tuple(one(a, b) for a, b in zip(quantized, exact, strict=True))


def _learned(
    segment: Segment, inputs: Any, output: Any, wanted: Any, slopes: tuple[Tensor, ...] | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """What the segment made, with its target and the task's gradient there, channels last."""
    own = made(inputs, output)
    targets = [target for value, target in zip(output, wanted, strict=True) if any(value is tensor for tensor in own)]
    for value, target, slope in zip(own, targets, slopes or [None] * len(own), strict=True):
        last = None if slope is None else slope.movedim(segment.channel, -1)
        yield value.float().movedim(segment.channel, -1), target.movedim(segment.channel, -1), last


def _first(inputs: Any) -> Tensor:
    tensor: Tensor = inputs.pixels if isinstance(inputs, Padded) else inputs[0]
    return tensor
