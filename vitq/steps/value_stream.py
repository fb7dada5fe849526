"""What waits between two segments of a detector: a few tensors of each image, whose sizes differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vitq.data.padded import Padded
from vitq.steps.step import Workspace
from vitq.steps.storage import room

# What a segment gives for a batch: tensors (B, …), or one tuple of tensors for each image.
Value = tuple[Tensor, ...] | list[tuple[Tensor, ...]]


def made(given: Any, value: tuple[Tensor, ...]) -> list[Tensor]:
    """What a segment made of `given`: all of its value but whole numbers and what it hands on as it is."""
    handed = () if isinstance(given, Padded) else given
    return [t for t in value if t.is_floating_point() and not any(t is other for other in handed)]


def leaves(value: Any) -> Any:
    """Images, or what a segment gave, cut off from what made it, with gradients of its own."""
    if isinstance(value, Padded):
        return replace(value, pixels=leaves(value.pixels))
    if isinstance(value, Tensor):
        return value.detach().requires_grad_(True) if value.is_floating_point() else value
    return tuple(leaves(part) for part in value)


class ValueStream:
    """The inputs of a later segment, a tuple of tensors for each image. One image is a batch.

    count: of images; None where that many are there as have been added.
    """

    def __init__(self, work: Workspace, count: int | None):
        self._work, self._count = work, count
        self._images: list[tuple[Tensor, ...]] = []

    def __len__(self) -> int:
        return len(self._images) if self._count is None else self._count

    def append(self, value: Value) -> None:
        """Add the next batch."""
        if isinstance(value, list):
            self._images += [tuple(map(self._kept, image)) for image in value]
            return
        for index in range(len(value[0])):
            self._images.append(tuple(self._kept(tensor[index : index + 1]) for tensor in value))

    def batches(self) -> Iterator[Any]:
        if self._count is not None and len(self._images) != self._count:
            raise RuntimeError(f"{len(self._images)} of {self._count} images arrived between two segments")
        for image in self._images:
            yield tuple(map(self._back, image))

    def select(self, indices: Tensor) -> Any:
        """Those at some positions, int64 (B,), together. Raises RuntimeError where their sizes differ."""
        chosen = [tuple(map(self._back, self._images[index])) for index in indices.tolist()]
        return tuple(torch.cat(parts) for parts in zip(*chosen, strict=True))

    def elements(self) -> int:
        """Numbers of all images together."""
        return sum(tensor.numel() for image in self._images for tensor in image)

    def scale(self, factor: float) -> None:
        for image in self._images:
            for tensor in image:
                tensor.mul_(factor)

    def _kept(self, tensor: Tensor) -> Tensor:
        """The tensor where `calib.cache` says. Whole numbers (sizes, labels) are small and stay where they are."""
        if not tensor.is_floating_point():
            return tensor
        if self._work.config.calib.cache == "disk":
            return room(self._work, tuple(tensor.shape)).copy_(tensor) if tensor.numel() else tensor
        return tensor.to(self._work.device if self._work.config.calib.cache == "device" else "cpu")

    def _back(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._work.device) if tensor.is_floating_point() else tensor
