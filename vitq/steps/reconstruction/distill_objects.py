"""Distillation of detectors: images have their own sizes, and networks are compared at boxes that are held fixed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from vitq.steps.step import Workspace
from vitq.steps.stream import ImageStream, Stream, taught


class ObjectLesson:
    """What the full-precision detector gives for the calibration images: the input of its heads, and at its own boxes
    what `Comparison.dense` lists."""

    @torch.no_grad()
    def __init__(self, work: Workspace):
        exact, own = work.teacher.comparison, work.model.structure.comparison
        assert exact is not None
        assert own is not None
        self._own, self._segments = own, work.model.structure.segments[:-1]
        self._images: Stream = ImageStream(work)
        self._values: Stream = self._images
        for index in range(len(work.teacher.segments) - 1):
            self._values = taught(work, index, self._values)
        self._answers: list[tuple[Any, Any]] = []
        for value in self._values.batches():
            boxes = exact.fixed(value)
            self._answers.append((boxes, exact.dense(value, boxes)))
        self._variances = _variances(self._values, self._segments[-1].channel)

    def backward(
        self, chosen: Tensor, features: float, logits: float, cast: Callable[[], AbstractContextManager[object]]
    ) -> Tensor:
        """Mean loss of the images at some positions, int64 (B,), its gradients added up image by image.

        features: weight of the squared error of what the heads read, each level divided by its variance, mean over
        levels. logits: weight of the divergence. cast: around all but the heads.
        """
        total: list[Tensor] = []
        for index in chosen.split(1):
            with cast():
                value = self._forward(index)
            value = tuple(tensor.float() if tensor.is_floating_point() else tensor for tensor in value)
            loss = features * self._apart(value, self._values.select(index)) + logits * self._divergence(index, value)
            (loss / len(chosen)).backward()
            total.append(loss.detach())
        return torch.stack(total).mean()

    @torch.no_grad()
    def divergence(self, chosen: Tensor) -> float:
        """Mean divergence over the images at some positions, nats; NaN for none."""
        parts = [self._divergence(index, self._forward(index)) for index in chosen.split(1) if len(index)]
        return float(torch.stack(parts).mean()) if parts else float("nan")

    def _forward(self, index: Tensor) -> Any:
        value = self._images.select(index)
        for segment in self._segments:
            value = segment.forward(value)
        return value

    def _divergence(self, index: Tensor, value: Any) -> Tensor:
        boxes, answer = self._answers[int(index)]
        return self._own.divergence(answer, self._own.dense(value, boxes))

    def _apart(self, value: Any, wanted: Any) -> Tensor:
        levels = [(a, b) for a, b in zip(value, wanted, strict=True) if a.is_floating_point()]
        parts = [(a - b).square().mean() / v for (a, b), v in zip(levels, self._variances, strict=True)]
        return torch.stack(parts).mean()


def _variances(values: Stream, channel: int) -> list[Tensor]:
    """Of each floating-point tensor of the values: the mean squared distance from the mean of its channel over all
    images and positions."""
    sums: list[list[Tensor]] = []
    for value in values.batches():
        tensors = [t.movedim(channel, -1).flatten(0, -2).double() for t in value if t.is_floating_point()]
        moments = [torch.stack([t.new_full((t.shape[1],), len(t)), t.sum(0), t.square().sum(0)]) for t in tensors]
        sums.append(moments)
    found = []
    for parts in zip(*sums, strict=True):
        count, total, square = torch.stack(parts).sum(dim=0)
        variance = (square / count - (total / count).square()).mean()
        found.append(variance.float().clamp(min=torch.finfo(torch.float32).tiny))
    return found
