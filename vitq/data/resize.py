"""How detectors' images are resized: the short side to a length, unless the long one would become too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitq.config import ModelConfig

if TYPE_CHECKING:
    from PIL.Image import Image


def resized(height: int, width: int, model: ModelConfig) -> tuple[int, int]:
    """Height and width of an image as the network sees it; its own where the model has no `short_side`."""
    if model.short_side is None:
        return height, width
    scale = model.short_side / min(height, width)
    if model.long_side is not None:
        scale = min(scale, model.long_side / max(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def resize(image: Image, model: ModelConfig) -> np.ndarray:
    """uint8 (3, H, W): bilinear without antialiasing, as OpenCV does it, which the original code uses."""
    import torch
    from torch.nn import functional as F

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    size = resized(pixels.shape[1], pixels.shape[2], model)
    if size != pixels.shape[1:]:
        scaled = F.interpolate(pixels[None].float(), size, mode="bilinear", align_corners=False)[0]
        pixels = scaled.round().clamp(0, 255).to(torch.uint8)
    array: np.ndarray = pixels.contiguous().numpy()
    return array
