"""What an allocation is scored by: the outputs of the quantized network beside the full-precision one's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vitq.steps.step import Workspace


@dataclass(frozen=True)
class Score:
    """Means over the images of a trial. kl: KL(full precision ‖ quantized), nats. loss: cross-entropy of the label,
    nats. agreement: percent of images with the same arg max as full precision.

    Of a detector kl and loss are its divergence (`Structure.comparison`), and agreement counts proposals.
    """

    kl: float
    loss: float
    agreement: float


class Judge(ABC):
    """Scores the network as it stands on batches of images that are known from the start.

    full: what full precision scores.
    """

    full: Score

    @abstractmethod
    def score(self, values: Sequence[Any]) -> Score:
        """values: the input of the last segment, for each batch."""


def judge_of(work: Workspace, batches: Sequence[Any], labels: Sequence[Tensor]) -> Judge:
    """The judge of a network, by what it gives."""
    return _Logits(work, batches, labels) if work.model.structure.comparison is None else _Objects(work, batches)


class _Logits(Judge):
    def __init__(self, work: Workspace, batches: Sequence[Tensor], labels: Sequence[Tensor]):
        self._last, self._device, self._labels = work.model.structure.segments[-1], work.device, labels
        self._targets = [_log_probabilities(work.teach(batch)) for batch in batches]
        self.full = self._score(self._targets)

    def score(self, values: Sequence[Any]) -> Score:
        return self._score([_log_probabilities(self._last.forward(value)) for value in values])

    def _score(self, outputs: Sequence[Tensor]) -> Score:
        """outputs: log-probabilities (B, classes) float64, batch by batch."""
        kl, loss, same = (torch.zeros((), dtype=torch.float64, device=self._device) for _ in range(3))
        for output, target, labels in zip(outputs, self._targets, self._labels, strict=True):
            kl += F.kl_div(output, target, reduction="sum", log_target=True)
            loss += F.nll_loss(output, labels, reduction="sum")
            same += (output.argmax(1) == target.argmax(1)).sum()
        count = sum(len(target) for target in self._targets)
        return Score(float(kl) / count, float(loss) / count, 100 * float(same) / count)


class _Objects(Judge):
    """One image is a batch."""

    def __init__(self, work: Workspace, batches: Sequence[Any]):
        exact, own = work.teacher.comparison, work.model.structure.comparison
        assert exact is not None
        assert own is not None
        self._own = own
        values = [_through(work, batch) for batch in batches]
        self._boxes = [exact.fixed(value) for value in values]
        with torch.no_grad():
            self._targets = [exact.dense(v, boxes) for v, boxes in zip(values, self._boxes, strict=True)]
        self.full = Score(0.0, 0.0, 100.0)

    @torch.no_grad()
    def score(self, values: Sequence[Any]) -> Score:
        outputs = [self._own.dense(value, boxes) for value, boxes in zip(values, self._boxes, strict=True)]
        pairs = list(zip(self._targets, outputs, strict=True))
        apart = float(torch.stack([self._own.divergence(*pair) for pair in pairs]).mean())
        alike = float(torch.stack([self._own.agreement(*pair) for pair in pairs]).mean())
        return Score(apart, apart, alike)


@torch.no_grad()
def _through(work: Workspace, value: Any) -> Any:
    """The input of the full-precision network's last segment."""
    for segment in work.teacher.segments[:-1]:
        value = segment.forward(value)
    return value


def _log_probabilities(logits: Tensor) -> Tensor:
    return F.log_softmax(logits.double(), dim=-1)
