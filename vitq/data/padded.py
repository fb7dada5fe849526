"""Images of several sizes as one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Padded:
    """Images of several sizes in one tensor, each in the upper left corner, zeros below and to the right of it.

    pixels: float32 (B, 3, H, W), normalized before they were padded. sizes: int64 (B, 2) on the CPU, height and width
    of each image within. It is cut into smaller batches as a tensor is.
    """

    pixels: Tensor
    sizes: Tensor

    @staticmethod
    def of(images: Tensor | Padded) -> Padded:
        """Images that fill their tensor have its size."""
        if isinstance(images, Padded):
            return images
        import torch

        return Padded(images, torch.tensor([images.shape[-2:]] * len(images), device="cpu"))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, chosen: slice) -> Padded:
        return Padded(self.pixels[chosen], self.sizes[chosen])
