"""RoIAlign over a pyramid as mmdet has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

FINEST = 56  # side of a box, in pixels, up to twice of which it is read from the finest level


class Pooler(nn.Module):
    """Reads each box from the level that fits its size, with pixel centres half a cell off (`aligned`).

    torchvision's own reads without that half cell, takes two samples a cell, and rounds the level otherwise.
    """

    def __init__(self, side: int, strides: tuple[int, ...]):
        super().__init__()
        self.output_size, self.strides = (side, side), strides

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: object = None) -> Tensor:
        """(R, C, side, side) for the boxes (R_i, 4) of all images. features: levels, finest first."""
        levels = list(features.values())[: len(self.strides)]
        index = torch.cat([torch.full_like(image[:, :1], number) for number, image in enumerate(boxes)])
        rois = torch.cat([index, torch.cat(boxes)], dim=1)
        area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
        level = (area.sqrt() / FINEST + 1e-6).log2().floor().clamp(0, len(levels) - 1)
        out = levels[0].new_zeros(len(rois), levels[0].shape[1], *self.output_size)
        if out.is_meta:  # shapes alone
            return out
        for number, (feature, stride) in enumerate(zip(levels, self.strides, strict=True)):
            here = torch.where(level == number)[0]
            read = roi_align(feature, rois[here], self.output_size, 1 / stride, sampling_ratio=-1, aligned=True)
            out.index_copy_(0, here, read)
        return out
