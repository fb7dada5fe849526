"""What one image takes at the segments of a network: for estimates of what waits between two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """Bytes of the floating-point numbers of one image, float32.

    images: how many calibrate. inputs, outputs, made: of each segment: what waits in front of it (nothing in front of
    the first, as images are read from their own cache), what it gives, and that less what it hands on as it is. read,
    given: of each module, by name, over all of its calls; those of a detector's heads are at the boxes of
    `FixedBoxComparison`, as many as there may be.
    """

    images: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    made: tuple[int, ...]
    read: Mapping[str, int]
    given: Mapping[str, int]

    @property
    def advancing(self) -> int:
        """Most that waits while all images go through one segment of one network."""
        return max(before + behind for before, behind in zip(self.inputs, self.outputs, strict=True))

    def learning(self, networks: int, kept: Mapping[int, int], gradients: bool) -> int:
        """Most that waits while segments learn: inputs of one or both networks, targets, and either outputs of the
        quantized network or what the loss keeps while segment i learns (`kept`); gradients: those at the outputs of
        all segments that are still ahead, which the heads' objects have none of."""
        most = 0
        for index, (before, behind) in enumerate(zip(self.inputs, self.outputs, strict=True)):
            beside = max((networks - 1) * behind, kept.get(index, 0))
            ahead = sum(self.made[index:-1]) if gradients else 0
            most = max(most, networks * before + behind + beside + ahead)
        return most
