"""Decoded images of one split, in memory-mapped uint8; normalized batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vitq.errors import bad

if TYPE_CHECKING:
    import torch


class Images(Protocol):
    """What steps read: images in a fixed order with a label each, decoded (`ImageSet`) or given (`TensorImages`)."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def labels(self) -> Any: ...

    def __len__(self) -> int: ...

    def batches(self, batch_size: int, device: str | torch.device) -> Iterator[tuple[Any, torch.Tensor]]:
        """(float32 normalized (B, C, H, W), int64 (B,)) on `device`, in order; the last batch may be smaller.

        Images of several sizes come as `Padded`.
        """

    def take(self, indices: Sequence[int] | np.ndarray) -> Images:
        """Those at these positions, in that order."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in a fixed order.

    images: uint8 (N, C, H, W), C = 3 or 1, usually a memory map. labels: int64 (N,). mean, std: of the 0–1 scale,
    per channel. fingerprint: stands for pixels, labels and their order.
    """

    images: np.ndarray
    labels: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int, device: str | torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (float32 normalized (B, C, H, W), int64 (B,)) on `device`, in order; the last batch may be smaller.

        Pixels travel as uint8 and become floats on the device. Raises ValueError when batch_size < 1.
        """
        import torch

        if batch_size < 1:
            raise ValueError(bad("batch_size", batch_size, "valid: 1 or more"))
        # (x / 255 - mean) / std as one multiplication and one addition.
        std = torch.tensor(self.std, dtype=torch.float64).view(1, -1, 1, 1)
        mean = torch.tensor(self.mean, dtype=torch.float64).view(1, -1, 1, 1)
        scale = (1 / (255 * std)).to(device=device, dtype=torch.float32)
        shift = (-mean / std).to(device=device, dtype=torch.float32)
        for start in range(0, len(self), batch_size):
            # A copy: torch cannot hold a read-only map, and a page fault belongs here, not inside a kernel.
            pixels = torch.from_numpy(np.array(self.images[start : start + batch_size]))
            labels = torch.from_numpy(np.array(self.labels[start : start + batch_size]))
            yield (pixels.to(device) * scale).add_(shift), labels.to(device)

    def take(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """The images at these positions, in that order, copied to memory."""
        import hashlib

        chosen = np.asarray(indices, dtype=np.int64)
        name = hashlib.sha256(self.fingerprint.encode() + chosen.tobytes()).hexdigest()[:32]
        return ImageSet(self.images[chosen], self.labels[chosen], self.mean, self.std, name)
