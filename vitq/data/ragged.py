"""Decoded images of many sizes, in one memory-mapped uint8 array; normalized and padded batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vitq.data.padded import Padded

if TYPE_CHECKING:
    import torch

STRIDE = 32  # sides are padded to multiples of it


@dataclass(frozen=True, eq=False)
class RaggedImages:
    """Images in a fixed order, each with its own size.

    pixels: uint8 (total,), one image after the other, (3, H, W) each, usually a memory map. shapes: int64 (N, 2), their
    heights and widths. originals: int64 (N, 2), before they were resized. truth: `images`, `annotations` and
    `categories` in COCO's format, images in this order. mean, std: of the 0–1 scale, per channel. fingerprint: stands
    for pixels, objects and their order.
    """

    pixels: np.ndarray
    shapes: np.ndarray
    originals: np.ndarray
    truth: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def labels(self) -> np.ndarray:
        """int64 (N,), zeros: images have no class."""
        return np.zeros(len(self), dtype=np.int64)

    def batches(self, batch_size: int, device: str | torch.device) -> Iterator[tuple[Padded, torch.Tensor]]:
        """(images, their labels) on `device`, in order. Neighbours of one padded size are together, at most
        `batch_size`. Raises ValueError when batch_size < 1.
        """
        import torch

        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; valid: 1 or more")
        std = torch.tensor(self.std, dtype=torch.float64).view(-1, 1, 1)
        mean = torch.tensor(self.mean, dtype=torch.float64).view(-1, 1, 1)
        scale = (1 / (255 * std)).to(device=device, dtype=torch.float32)
        shift = (-mean / std).to(device=device, dtype=torch.float32)
        padded = -(-self.shapes // STRIDE) * STRIDE
        ends = 3 * self.shapes.prod(axis=1).cumsum()
        start = 0
        while start < len(self):
            stop = start + 1
            while stop < min(len(self), start + batch_size) and (padded[stop] == padded[start]).all():
                stop += 1
            images = torch.zeros(stop - start, 3, *padded[start].tolist(), device=device)
            for index in range(start, stop):
                height, width = self.shapes[index].tolist()
                stored = self.pixels[ends[index] - 3 * height * width : ends[index]]
                image = torch.from_numpy(np.array(stored)).view(3, height, width).to(device)
                images[index - start, :, :height, :width] = (image * scale).add_(shift)
            sizes = torch.from_numpy(self.shapes[start:stop].copy())
            yield Padded(images, sizes), torch.zeros(stop - start, dtype=torch.int64, device=device)
            start = stop

    def take(self, indices: Sequence[int] | np.ndarray) -> RaggedImages:
        """The images at these positions, in that order, copied to memory."""
        chosen = np.asarray(indices, dtype=np.int64)
        ends = 3 * self.shapes.prod(axis=1).cumsum()
        parts = [self.pixels[ends[i] - 3 * int(self.shapes[i].prod()) : ends[i]] for i in chosen]
        pixels = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8)
        name = hashlib.sha256(self.fingerprint.encode() + chosen.tobytes()).hexdigest()[:32]
        images = [self.truth["images"][i] for i in chosen]
        wanted = {image["id"] for image in images}
        objects = [entry for entry in self.truth["annotations"] if entry["image_id"] in wanted]
        truth = self.truth | {"images": images, "annotations": objects}
        return RaggedImages(pixels, self.shapes[chosen], self.originals[chosen], truth, self.mean, self.std, name)
