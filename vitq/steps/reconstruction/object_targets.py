"""What a detector learns as a whole from its full-precision network: features and answers, image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from vitq.steps.reconstruction.object_curvature import images_of
from vitq.steps.step import Workspace
from vitq.steps.stream import ImageStream, Stream, taught

Cast = Callable[[], AbstractContextManager[object]]


class ObjectTargets:
    """images, features: streams of the images, and of what the heads of the full-precision network read."""

    def __init__(self, work: Workspace):
        exact, own = work.teacher.comparison, work.model.structure.comparison
        assert exact is not None
        assert own is not None
        self._work, self._exact, self._own = work, exact, own
        self._forwards = [segment.forward for segment in work.model.structure.segments[:-1]]
        self.images: Stream = ImageStream(work)
        self.features: Stream = self.images
        for index in range(len(work.teacher.segments) - 1):
            self.features = taught(work, index, self.features)
        self._variances = self._spread()

    def backward(self, chosen: Tensor, features: float, logits: float, cast: Cast = nullcontext) -> Tensor:
        """Mean over the images at some positions, int64 (B,), of

            features·mean over tensors of ‖F̂ − F‖²/Var(F) + logits·divergence

        its gradients added up. F, F̂: each tensor that the heads read, of the full-precision and the quantized network.
        Var: of a channel from its mean over images and positions, mean over channels.
        """
        total = torch.zeros((), device=self._work.device)
        for index in chosen.split(1):
            wanted = self.features.select(index)
            with cast():
                given = self._features(self.images.select(index))
                loss = torch.zeros((), device=self._work.device)
                if logits:
                    loss = loss + logits * self._apart(wanted, given).float()
            if features:
                apart = [
                    (value - target).square().mean() / variance
                    for (value, target), variance in zip(_tensors(given, wanted), self._variances, strict=True)
                ]
                loss = loss + features * torch.stack(apart).mean()
            (loss / len(chosen)).backward()
            total += loss.detach() / len(chosen)
        return total

    @torch.no_grad()
    def divergence(self, chosen: Tensor) -> float:
        """Mean divergence of the quantized from the full-precision network over some images, nats; NaN for none."""
        parts = [
            self._apart(self.features.select(index), self._features(self.images.select(index)))
            for index in chosen.split(1)
            if len(index)
        ]
        return float(torch.stack(parts).mean()) if parts else float("nan")

    def _features(self, value: Any) -> tuple[Tensor, ...]:
        """What the quantized network's heads read, float32."""
        for forward in self._forwards:
            value = forward(value)
        return tuple(part.float() if part.is_floating_point() else part for part in value)

    def _apart(self, wanted: Any, given: Any) -> Tensor:
        with torch.no_grad():
            boxes = self._exact.fixed(wanted)
            exact = self._exact.dense(wanted, boxes)
        return self._own.divergence(exact, self._own.dense(given, boxes))

    @torch.no_grad()
    def _spread(self) -> list[Tensor]:
        sums: list[Tensor] = []  # of each tensor: positions, values, squares by channel
        channel = self._work.model.structure.segments[-2].channel
        for (value,) in images_of(self.features):
            parts = [part.movedim(channel, -1).flatten(0, -2).double() for part, _ in _tensors(value, value)]
            if not sums:
                sums = [torch.zeros(3, part.shape[1], dtype=part.dtype, device=part.device) for part in parts]
            for total, part in zip(sums, parts, strict=True):
                total += torch.stack([torch.full_like(part[0], len(part)), part.sum(dim=0), part.square().sum(dim=0)])
        least = torch.finfo(torch.float32).tiny
        return [
            ((total[2] - total[1].square() / total[0]).sum() / total[0].sum()).clamp(min=least).float()
            for total in sums
        ]


def _tensors(value: Sequence[Tensor], target: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The floating-point tensors of two values."""
    return [(a, b) for a, b in zip(value, target, strict=True) if a.is_floating_point()]
