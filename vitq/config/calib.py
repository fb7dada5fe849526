"""How many calibration images, how they are chosen and how they are fed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.errors import Problem


def _different(ids: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if ids is not None and (not ids or len(set(ids)) < len(ids)):
        twice = sorted({number for number in ids if ids.count(number) > 1})
        what = f"{', '.join(map(str, twice))} more than once" if twice else "no image"
        raise ValueError(Problem(f"it names {what}; different ids are needed, at least one, or null"))
    return ids


@dataclass(frozen=True, config=RULES)
class CalibConfig:
    """The calibration set.

    size: number of images; all of them count, streamed in batches of `batch_size`.
    batch_size: images that go through the network at once.
    balanced: equal numbers per class as far as the split has them.
    augment: timm's training augmentation instead of the clean evaluation transform (papers differ: PTQ4ViT, AdaLog
        and APHQ-ViT augment; RepQ-ViT, ERQ and I&S-ViT do not).
    cache: where steps keep the activations of a segment between its batches; `auto`: on disk for COCO, whose images
        are large, else in the host's memory. Volatile.
    ids: the calibration images by the data set's own numbers (COCO's `id`), in this order; `size` is then how many
        they are, and the seed chooses none. None: the seed chooses.
    """

    size: Annotated[int, Field(ge=1)] = 32
    batch_size: Annotated[int, Field(ge=1)] = 32
    balanced: bool = True
    augment: bool = False
    cache: Literal["auto", "device", "host", "disk"] = "auto"
    ids: Annotated[tuple[int, ...] | None, AfterValidator(_different)] = None

    def __post_init__(self) -> None:
        if self.ids is not None:
            object.__setattr__(self, "size", len(self.ids))
