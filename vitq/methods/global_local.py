"""GLF-Q's loss: the feature in front of the head, and the segment's own output (2026)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vitq.steps.reconstruction.object_curvature import Suffix, pairs
from vitq.steps.reconstruction.objective import Measure, Objective, register_objective
from vitq.steps.reconstruction.segment_task import SegmentTask
from vitq.steps.step import NotNegative, Workspace
from vitq.steps.stream import through
from vitq.steps.waiting import Waiting


@register_objective("global_local")
class GlobalLocal(Objective):
    """L/L⁰ + local·M/M⁰: L the squared error, mean over channels, of the feature in front of the head; M the segment's.

    The segment's output runs through the full-precision segments behind it, frozen, as far as the head's input: the
    normed class token, or the mean of the tokens. M: mean over tokens and channels. Both relative to the first batch.
    local: λ (1, 2 and 4 do alike in the paper). The head itself learns KL [I]. Of a detector the feature is what its
    heads read, all levels of the pyramid; each level counts as a mean of its own [I].
    """

    local: NotNegative = 2.0

    def of(self, work: Workspace, task: SegmentTask) -> Measure:
        return _FeatureErrors(self.local, work, task)

    def of_objects(self, work: Workspace, task: SegmentTask) -> Measure:
        return _OfObjects(self.local, work, task)

    def waiting(self, waiting: Waiting, index: int) -> int:
        return waiting.inputs[-1]  # the features


class _FeatureErrors(Measure):
    def __init__(self, local: float, work: Workspace, task: SegmentTask):
        super().__init__()
        self.weights = (1.0, local)
        self._work, self._index = work, task.index
        self._features = through(self._feature, task.target, work)

    def terms(self, output: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
        feature = self._feature(output) - self._features.select(chosen)
        return torch.stack([feature.square().mean(), (output - target).square().mean()])

    def _feature(self, output: Tensor) -> Tensor:
        """What the heads of the full-precision model read, side by side, (B, C), for outputs of the segment."""
        teacher, read = self._work.teacher, list[Tensor]()

        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            read.append(inputs[0])

        handles = [teacher.model.get_submodule(name).register_forward_pre_hook(keep) for name in teacher.head]
        try:
            for segment in teacher.segments[self._index + 1 :]:
                output = segment.forward(output)
        finally:
            for handle in handles:
                handle.remove()
        return torch.cat(read, dim=-1) if read else output


class _OfObjects(Measure):
    def __init__(self, local: float, work: Workspace, task: SegmentTask):
        super().__init__()
        self.weights = (1.0, local)
        self._suffix = Suffix(work, task.index)
        self._features = through(self._suffix.last, task.target, work)

    def terms(self, output: Any, target: Any, chosen: Tensor) -> Tensor:
        features = pairs(self._suffix.last(output), self._features.select(chosen))
        distances = [
            [(value - wanted).square().mean() for value, wanted in both] for both in (features, pairs(output, target))
        ]
        return torch.stack([torch.stack(each).sum() for each in distances])
