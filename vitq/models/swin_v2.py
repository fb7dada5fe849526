"""Structure of timm's two Swin V2: cosine attention in windows, norms behind each branch, position bias by an MLP."""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

from timm.models import swin_transformer_v2 as v2
from timm.models import swin_transformer_v2_cr as cr
from torch import Tensor, nn
from torch.nn import functional as F

from vitq.models.attention import AttentionTwin
from vitq.models.rotatable import Heads, ResidualStream, Rotatable
from vitq.models.structure import (
    Segment,
    Structure,
    register_family,
    unsupported,
)


class CosineAttention(AttentionTwin):
    """Attention within windows (windows·B, N, C): query and key of length 1, a learned scale for each head.

    The position bias does not depend on the image. Its MLP is no site, and its result a constant of exported models.
    """

    shared: ClassVar[tuple[str, ...]] = ("logit_scale",)
    logit_scale: nn.Parameter

    def mask(self, mask: Tensor | None = None) -> Tensor | None:
        return mask

    def before_scores(self, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return F.normalize(query, dim=-1), F.normalize(key, dim=-1)

    def scaling(self) -> Tensor:
        return self.logit_scale.view(-1, 1, 1).clamp(max=math.log(100.0)).exp()

    @property
    def bare_scores(self) -> bool:
        return False

    def learnable(self) -> list[nn.Parameter]:
        return [self.logit_scale]


class TableAttention(CosineAttention):
    """Microsoft's: the MLP makes a table of relative positions."""

    shared = (*CosineAttention.shared, "cpb_mlp", "relative_coords_table", "relative_position_index", "window_size")
    cpb_mlp: nn.Module
    relative_coords_table: Tensor
    relative_position_index: Tensor
    window_size: tuple[int, int]

    def bias(self) -> Tensor:
        table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)
        area = self.window_size[0] * self.window_size[1]
        bias = table[self.relative_position_index.reshape(-1)].view(area, area, -1)
        out: Tensor = 16 * bias.permute(2, 0, 1).sigmoid()
        return out


class PairAttention(CosineAttention):
    """Christoph Reich's: the MLP is asked for every pair of tokens."""

    shared = (*CosineAttention.shared, "meta_mlp", "relative_coordinates_log", "window_size")
    meta_mlp: nn.Module
    relative_coordinates_log: Tensor
    window_size: tuple[int, int]

    def bias(self) -> Tensor:
        area = self.window_size[0] * self.window_size[1]
        bias: Tensor = self.meta_mlp(self.relative_coordinates_log).T.reshape(self.num_heads, area, area)
        return bias


@register_family("swin_v2", v2.SwinTransformerV2, TableAttention)
def swin_v2_structure(model: nn.Module) -> Structure:
    """Structure of a SwinTransformerV2. Raises ModelError for stems and blocks that the engine does not know."""
    swin = cast(v2.SwinTransformerV2, model)
    structure = _stem("swin_v2", swin)
    structure.segments.append(Segment("patch_embed", swin.patch_embed, ("patch_embed",)))
    for index, stage in enumerate(swin.layers):
        _stage(structure, f"layers.{index}", stage)
    return _finish(structure, ("norm", "head"), lambda x: swin.forward_head(swin.norm(x)))


@register_family("swin_v2_cr", cr.SwinTransformerV2Cr, PairAttention)
def swin_v2_cr_structure(model: nn.Module) -> Structure:
    """Structure of a SwinTransformerV2Cr. Raises ModelError for stems and blocks that the engine does not know."""
    swin = cast(cr.SwinTransformerV2Cr, model)
    structure = _stem("swin_v2_cr", swin)
    # Between the stages timm keeps (B, C, H, W).
    forward = lambda x: swin.patch_embed(x).permute(0, 2, 3, 1)  # noqa: E731
    structure.segments.append(Segment("patch_embed", forward, ("patch_embed",)))
    for index, stage in enumerate(swin.stages):
        _stage(structure, f"stages.{index}", stage)
    return _finish(structure, ("head",), lambda x: swin.forward_head(x.permute(0, 3, 1, 2)))


def _stem(family: str, swin: nn.Module) -> Structure:
    embed = swin.get_submodule("patch_embed")
    if not isinstance(getattr(embed, "proj", None), nn.Conv2d):
        raise unsupported(swin, "patch embedding", type(embed).__name__, "one convolution")
    return Structure(family, swin, inputs={"patch_embed.proj": "patch"}, stem=("patch_embed.proj",))


def _stage(structure: Structure, name: str, stage: nn.Module) -> None:
    merging = f"{name}.downsample"
    if not isinstance(stage.downsample, nn.Identity):
        if not isinstance(stage.downsample, v2.PatchMerging | cr.PatchMerging):
            raise unsupported(structure.model, merging, type(stage.downsample).__name__, "timm's PatchMerging")
        # Microsoft's norm stands behind the reduction.
        before = isinstance(stage.downsample, cr.PatchMerging)
        structure.inputs[f"{merging}.reduction"] = "other"
        if before:
            structure.link(f"{merging}.norm", f"{merging}.reduction")
        structure.segments.append(Segment(merging, stage.downsample, (merging,)))
    for position, block in enumerate(cast(nn.Sequential, stage.blocks)):
        inner = f"{name}.blocks.{position}"
        if type(block) not in (v2.SwinTransformerV2Block, cr.SwinTransformerV2CrBlock):
            raise unsupported(structure.model, inner, f"of type {type(block).__name__}", "timm's Swin V2 blocks")
        gelu = isinstance(cast(nn.Module, block.mlp).act, nn.GELU)
        structure.inputs |= {
            f"{inner}.attn.qkv": "other",
            f"{inner}.attn.proj": "attn_out",
            f"{inner}.mlp.fc1": "other",
            f"{inner}.mlp.fc2": "post_gelu" if gelu else "other",
        }
        structure.attentions.append(f"{inner}.attn")
        structure.segments.append(Segment(inner, block, (inner,)))


def _finish(structure: Structure, modules: tuple[str, ...], forward: Any) -> Structure:
    swin = structure.model
    structure.end(forward, *modules)
    # A rotation changes no length, so that query and key commute with it.
    heads = []
    for name in structure.attentions:
        attention = swin.get_submodule(name)
        count, proj = cast(int, attention.num_heads), cast(nn.Linear, attention.proj)
        heads.append(Heads(f"{name}.qkv", f"{name}.proj", count, proj.in_features // count))
    width = cast(nn.Linear, swin.get_submodule(structure.attentions[0]).proj).in_features
    fixed = "norm1 stands behind attention and writes its channel-wise weights to the stream"
    structure.rotatable = Rotatable((ResidualStream("blocks", width, (), (), (), fixed),), tuple(heads))
    return structure
