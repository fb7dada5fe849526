"""Images that a caller gives: normalized tensors, at once or batch by batch. They are checked, not changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitq.errors import DataError

# One tensor of images, images with labels, or an iterable of such batches (a DataLoader).
Given = Tensor | tuple[Tensor, Tensor] | Iterable[Any]
# The label of images that have none: no recipe reads it, but what counts classes for a report needs one.
_NONE = 0


@dataclass(frozen=True, eq=False)
class TensorImages:
    """Images in a fixed order, with the interface of `ImageSet`.

    images: float32 (N, 3, S, S) on the CPU, normalized. labels: int64 (N,). fingerprint: sha256 of images and labels.
    """

    images: Tensor
    labels: Tensor
    fingerprint: str
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @classmethod
    def of(cls, given: Given, what: str = "images") -> TensorImages:
        """All images of a tensor or of an iterable of batches. Raises DataError as `batches` does."""
        pairs = list(batches(given, what))
        images = torch.cat([images for images, _ in pairs])
        labels = torch.cat([torch.full((len(x),), _NONE) if y is None else y for x, y in pairs])
        digest = hashlib.sha256(str(tuple(images.shape)).encode() + images.numpy().tobytes() + labels.numpy().tobytes())
        return cls(images, labels, digest.hexdigest()[:32])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """Pixels of a side."""
        return self.images.shape[-1]

    def batches(self, batch_size: int, device: str | torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """(float32 (B, 3, S, S), int64 (B,)) on `device`, in order, copied; the last batch may be smaller."""
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True):
            yield images.to(device, copy=True), labels.to(device)

    def take(self, indices: Sequence[int] | np.ndarray) -> TensorImages:
        """The images at these positions, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        name = hashlib.sha256(self.fingerprint.encode() + chosen.tobytes()).hexdigest()[:32]
        at = torch.from_numpy(chosen)
        return TensorImages(self.images[at], self.labels[at], name, self.mean, self.std)


def batches(given: Given, what: str = "images") -> Iterator[tuple[Tensor, Tensor | None]]:
    """(float32 (B, 3, S, S), int64 (B,) or None where there are no labels) on the CPU, as the caller batched them.

    what: the caller's name of the argument. Raises DataError: nothing there, another shape or type, an image of another
    size than the first, NaN or infinity, labels that are not one whole number for each image.
    """
    size: int | None = None
    for entry in _entries(given, what):
        # A DataLoader of images alone gives tensors, or lists of one.
        parts = (*entry, None)[:2] if isinstance(entry, tuple | list) and len(entry) in (1, 2) else (entry, None)
        images, labels = _images(parts[0], what), parts[1]
        if size is not None and images.shape[-1] != size:
            text = f"{what}: a batch has images of {images.shape[-1]} pixels, the first one of {size}"
            raise DataError(text, what, images.shape[-1], (size,))
        size = images.shape[-1]
        yield images, None if labels is None else _labels(labels, len(images), what)
    if size is None:
        raise DataError(f"{what}: empty; at least one image is needed", what)


def _entries(given: Given, what: str) -> Iterable[Any]:
    if isinstance(given, Tensor) or (isinstance(given, tuple) and len(given) == 2):
        return [given]
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | dict):
        return given
    raise DataError(
        f"{what}: a {type(given).__name__}; valid: a float tensor (N, 3, S, S), or a DataLoader of such batches, alone "
        "or with labels (N,)",
        what,
        given,
    )


def _images(images: Any, what: str) -> Tensor:
    valid = f"a float tensor (N, 3, S, S) of normalized images is needed for {what}"
    if not isinstance(images, Tensor):
        raise DataError(f"{what}: a {type(images).__name__}; {valid}", what, images)
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise DataError(f"{what}: shape {tuple(images.shape)}; {valid}", what, tuple(images.shape))
    if not images.is_floating_point():
        text = f"{what}: type {images.dtype}; {valid}: (x / 255 - mean) / std with the model's own mean and std"
        raise DataError(text, what, images.dtype)
    if not len(images):
        raise DataError(f"{what}: empty; at least one image is needed", what)
    plain: Tensor = images.detach().to("cpu", torch.float32).contiguous()
    finite = plain.flatten(1).isfinite().all(dim=1)
    if not finite.all():
        raise DataError(
            f"{what}: NaN or infinity in {int((~finite).sum())} of {len(plain)} images, first in number "
            f"{int((~finite).nonzero()[0])}; look at how they are normalized",
            what,
            float("nan"),
        )
    return plain


def _labels(labels: Any, count: int, what: str) -> Tensor:
    plain = torch.as_tensor(labels).detach().cpu()
    if plain.shape != (count,) or plain.is_floating_point():
        raise DataError(
            f"{what}: labels of shape {tuple(plain.shape)} and type {plain.dtype}; one whole number for each image is "
            f"needed, ({count},)",
            f"{what}.labels",
            tuple(plain.shape),
            ((count,),),
        )
    return plain.to(torch.int64)
