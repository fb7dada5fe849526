"""Masks of boxes become masks of images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

THRESHOLD = 0.5


def paste(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """bool (D, height, width): pixels whose centre has a probability of at least one half.

    masks: float32 (D, M, M) over the boxes (D, 4), both on the CPU. Between the cells' centres they are interpolated;
    outside a box everything is background (mmdet's rule; torchvision's rounds the boxes).
    """
    image = torch.zeros(len(masks), height, width, dtype=torch.bool)
    limits = torch.tensor([width, height])
    start = boxes[:, :2].floor().long().sub(1).clamp(min=0)
    end = torch.minimum(boxes[:, 2:].ceil().long() + 1, limits)
    for number, (left, top, right, bottom) in enumerate(torch.cat([start, end], dim=1).tolist()):
        if right <= left or bottom <= top:
            continue
        x = _grid(left, right, boxes[number, 0], boxes[number, 2])
        y = _grid(top, bottom, boxes[number, 1], boxes[number, 3])
        grid = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1)
        inside = F.grid_sample(masks[None, None, number], grid[None], align_corners=False)[0, 0]
        image[number, top:bottom, left:right] = inside >= THRESHOLD
    return image


def _grid(start: int, end: int, low: Tensor, high: Tensor) -> Tensor:
    """Pixel centres from `start` to `end` on the scale where the box runs from -1 to 1; 0 where it has no width."""
    centres = torch.arange(start, end, dtype=torch.float32) + 0.5
    scaled = (centres - low) / (high - low) * 2 - 1
    return torch.where(scaled.isinf(), torch.zeros_like(scaled), scaled)
