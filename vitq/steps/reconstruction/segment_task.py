"""One segment to be learned, with what it is learned from, and the batches that it sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vitq.models.structure import Segment
from vitq.quant.site import Site
from vitq.steps.stream import Stream


@dataclass(frozen=True)
class SegmentTask:
    """One segment to be learned, and what it is learned from, each for all calibration images.

    index: its position in the model. sites: those that are on. exact, noisy: its inputs in the full-precision network,
    and those that it reads. target: what it is to give. gradient: the task's, for the losses of FISHER, else None.
    """

    index: int
    segment: Segment
    sites: list[Site]
    exact: Stream
    noisy: Stream
    target: Stream
    gradient: Stream | None = None


def batches(count: int, size: int, iterations: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`iterations` batches of min(size, count) positions, each drawn without replacement."""
    for _ in range(iterations):
        yield torch.randperm(count, generator=generator)[:size]
