"""Swin with a norm for each stage, and the feature pyramid on top of them."""

from __future__ import annotations

from collections import OrderedDict

from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from vitq.models.pad_first import pad_first

STRIDES = (4, 8, 16, 32, 64)  # pixels of the image to a cell of each level of the pyramid
LEVELS = tuple(str(number) for number in range(len(STRIDES)))


class LastLevel(ExtraFPNBlock):
    """Every other row and column of the coarsest level.

    torchvision takes a maximum over one cell each, the same numbers; OpenVINO loses the scale of int8 in that.
    """

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """One level more, (B, C, ⌈H / 2⌉, ⌈W / 2⌉)."""
        return [*results, results[-1][:, :, ::2, ::2].contiguous()], [*names, "pool"]


class Backbone(nn.Module):
    """body: timm's Swin without final norm and head. norms: one for each stage. fpn: the pyramid of five levels."""

    def __init__(
        self, embed_dim: int, depths: tuple[int, ...], num_heads: tuple[int, ...], window_size: int, pyramid: int
    ):
        super().__init__()
        body = SwinTransformer(
            embed_dim=embed_dim,
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            window_size=window_size,
            num_classes=0,
            strict_img_size=False,
            # Windows keep their size where the feature map is smaller.
            always_partition=True,
        )
        body.norm = nn.Identity()
        self.body = pad_first(body)
        widths = [embed_dim * 2**stage for stage in range(len(depths))]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.fpn = FeaturePyramidNetwork(widths, pyramid, LastLevel())

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Five levels (B, pyramid, H / stride, W / stride), finest first, from (B, 3, H, W)."""
        stages = []
        x = self.body.patch_embed(pixels)
        for stage in self.body.layers:
            x = stage(x)
            stages.append(x)
        return self.neck(*stages)

    def features(self, *stages: Tensor) -> list[Tensor]:
        """The normalized outputs (B, C, H, W) of the stages, from (B, H, W, C) each."""
        return [norm(x).permute(0, 3, 1, 2).contiguous() for norm, x in zip(self.norms, stages, strict=True)]

    def neck(self, *stages: Tensor) -> tuple[Tensor, ...]:
        """The pyramid from the outputs (B, H, W, C) of the stages."""
        named = OrderedDict(zip(LEVELS, self.features(*stages), strict=False))
        return tuple(self.fpn(named).values())
