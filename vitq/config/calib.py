"""How many calibration images, how they are chosen and how they are fed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES


@dataclass(frozen=True, config=RULES)
class CalibConfig:
    """The calibration set.

    size: number of images; all of them count, streamed in batches of `batch_size`.
    batch_size: images that go through the network at once.
    balanced: equal numbers per class as far as the split has them.
    augment: timm's training augmentation instead of the clean evaluation transform (papers differ: PTQ4ViT, AdaLog
        and APHQ-ViT augment; RepQ-ViT, ERQ and I&S-ViT do not).
    cache: where steps keep the activations of a segment between its batches. Volatile.
    """

    size: Annotated[int, Field(ge=1)] = 32
    batch_size: Annotated[int, Field(ge=1)] = 32
    balanced: bool = True
    augment: bool = False
    cache: Literal["device", "host", "disk"] = "host"
