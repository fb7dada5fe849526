"""Block streaming: the inputs of one segment of the model for all calibration images, advanced segment by segment."""

from __future__ import annotations

import torch
from torch import Tensor

from vitq.models.anatomy import Segment
from vitq.steps.step import Workspace


class Stream:
    """The tensors between two segments, one entry for each calibration batch.

    A segment's outputs replace its inputs, so memory is one activation of the whole calibration set whatever the depth,
    and the work is one evaluation of each segment (design.md, rule 3). `store` is where they wait: the compute device
    or the host's memory.
    """

    def __init__(self, work: Workspace, images: int | None = None):
        self._device = work.device
        self._store = work.device if work.config.calib.cache == "device" else torch.device("cpu")
        self._batches = list(work.batches(images))

    @property
    def images(self) -> int:
        return sum(len(batch) for batch in self._batches)

    @torch.no_grad()
    def advance(self, segment: Segment) -> None:
        """Replace every batch by the segment's output."""
        for index, batch in enumerate(self._batches):
            self._batches[index] = segment.forward(batch.to(self._device)).to(self._store)

    @torch.no_grad()
    def feed(self, segment: Segment) -> None:
        """Run the segment on every batch for the sake of its observers; inputs stay."""
        for batch in self._batches:
            segment.forward(batch.to(self._device))

    def batches(self) -> list[Tensor]:
        return self._batches
