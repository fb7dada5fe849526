"""Anchors and box coding as mmdet has them."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

RATIOS = (0.5, 1.0, 2.0)  # height / width


class Anchors(AnchorGenerator):
    """Three anchors at each cell of each level, of side `scale · stride`.

    torchvision rounds the anchors, and divides the image's size by the feature map's to get a stride, which gives 61
    instead of 64 where a level's size was rounded up.
    """

    def __init__(self, strides: tuple[int, ...], scale: int):
        self.strides = strides
        super().__init__(tuple((scale * stride,) for stride in strides), (RATIOS,) * len(strides))

    def generate_anchors(
        self,
        scales: list[int],
        aspect_ratios: list[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        """(3, 4) x1 y1 x2 y2 around 0; unrounded. On the CPU whatever `device` says: `forward` moves them."""
        heights = torch.tensor(aspect_ratios, dtype=dtype, device="cpu").sqrt()
        sides = torch.stack([1 / heights, heights], dim=1) * scales[0]
        return torch.cat([-0.5 * sides, 0.5 * sides], dim=1)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """(A, 4) for each image: all levels, row by row, three to a cell."""
        like = feature_maps[0]
        self.set_cell_anchors(like.dtype, like.device)
        strides = [[torch.tensor(stride, device=like.device)] * 2 for stride in self.strides]
        levels = self.grid_anchors([list(level.shape[-2:]) for level in feature_maps], strides)
        return [torch.cat(levels)] * len(image_list.image_sizes)


class Coder(BoxCoder):
    """torchvision limits how much larger than its anchor a box becomes; mmdet limits how much smaller, too."""

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """(R, 4·K) from (R, 4·K) offsets and (R, 4) boxes."""
        codes = rel_codes.unflatten(1, (-1, 4))
        smallest = [-self.bbox_xform_clip * weight for weight in self.weights[2:]]
        sides = torch.maximum(codes[..., 2:], codes.new_tensor(smallest))
        boxes_of: Tensor = super().decode_single(torch.cat([codes[..., :2], sides], dim=-1).flatten(1), boxes)
        return boxes_of
