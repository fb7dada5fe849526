"""Swin's block as the detectors have it: the feature map is padded to whole windows first, and shifted then."""

from __future__ import annotations

from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, SwinTransformerStage
from torch import Tensor
from torch.nn import functional as F


class PadFirstBlock(SwinTransformerBlock):
    """timm's block shifts first and pads then. Both are equal only where the windows divide the feature map."""

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        below, right = (-size % window for size, window in zip((height, width), self.window_size, strict=True))
        out: Tensor = super()._attn(F.pad(x, (0, 0, 0, right, 0, below)))
        return out[:, :height, :width]


def pad_first(swin: SwinTransformer) -> SwinTransformer:
    """The same network with blocks that pad first. It is changed in place: timm has no option for the block's class."""
    for stage in swin.layers:
        assert isinstance(stage, SwinTransformerStage)
        for block in stage.blocks:
            block.__class__ = PadFirstBlock
    return swin
