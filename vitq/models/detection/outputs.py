"""What a detector gives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Detections(NamedTuple):
    """The objects found in one image, best first.

    boxes: float32 (D, 4), x1 y1 x2 y2 in pixels of the image as the network saw it. scores: float32 (D,), 0 to 1.
    labels: int64 (D,), classes from 0. masks: float32 (D, M, M), probability of each cell of a grid over the box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor
