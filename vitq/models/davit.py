"""Structure of timm's DaVit: attention in windows and attention between channels by turns, convolutions before each."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from timm.models.davit import ChannelAttentionV2, ChannelBlock, DaVit, SpatialBlock
from torch import Tensor, nn

from vitq.models.attention import AttentionTwin, Parts
from vitq.models.structure import Segment, Structure, layers_below, register_family, unsupported


class UnbiasedWindows(AttentionTwin):
    """Attention within windows (windows·B, N, C)."""


class ChannelTwin(AttentionTwin):
    """Attention of each head's channels to each other: scores are (d, d).

    In the first version the scores are of key and value, and the query is what they weigh.
    """

    joint: ClassVar[bool] = False
    shared = ("qkv", "proj")

    def __init__(self, attention: nn.Module, name: str, parts: Parts):
        second = isinstance(attention, ChannelAttentionV2)
        if second:
            attention.num_heads = attention.groups
        super().__init__(attention, name, parts)
        self.second_version = second
        self.by_tokens = bool(getattr(attention, "dynamic_scale", False))
        if second and not self.by_tokens:
            self.scale = float(cast(int, attention.head_dim)) ** -0.5

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        made = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 4, 1)
        query, key, value = made.unbind(0) if self.second_version else (made[1], made[2], made[0])
        if self.by_tokens:
            query = query * x.shape[1] ** -0.5
        heads = self.attend(query, key, value, None)
        out: Tensor = self.proj(heads.permute(0, 3, 1, 2).flatten(2))
        return out


@register_family("davit", DaVit, UnbiasedWindows)
def davit_structure(model: nn.Module) -> Structure:
    """Structure of a DaVit. Raises ModelError for blocks that the engine does not know."""
    davit = cast(DaVit, model)
    structure = Structure("davit", davit, inputs={"stem.conv": "patch"}, stem=("stem.conv",))
    structure.segments.append(Segment("stem", davit.stem, ("stem",), channel=1))
    for index, stage in enumerate(davit.stages):
        name = f"stages.{index}"
        structure.inputs.update(dict.fromkeys(layers_below(davit, name), "other"))
        downsample = cast(nn.Module, stage.downsample)
        if not isinstance(downsample, nn.Identity):
            structure.segments.append(Segment(f"{name}.downsample", downsample, (f"{name}.downsample",), channel=1))
        for position, pair in enumerate(cast(nn.Sequential, stage.blocks)):
            for child, block in pair.named_children():
                _block(structure, f"{name}.blocks.{position}.{child}", block)
    structure.end(lambda x: davit.forward_head(davit.norm_pre(x)), "norm_pre", "head")
    return structure


def _block(structure: Structure, name: str, block: nn.Module) -> None:
    if not isinstance(block, SpatialBlock | ChannelBlock):
        valid = "timm's SpatialBlock, ChannelBlock"
        raise unsupported(structure.model, name, f"of type {type(block).__name__}", valid)
    structure.attentions.append(f"{name}.attn")
    structure.inputs[f"{name}.attn.proj"] = "attn_out"
    if isinstance(block, ChannelBlock):
        structure.twins[f"{name}.attn"] = ChannelTwin
    # Windows that do not divide the map are filled with zeros behind the norm.
    structure.link(f"{name}.norm1", f"{name}.attn.qkv", padded=isinstance(block, SpatialBlock))
    if block.mlp is not None:
        structure.link(f"{name}.norm2", f"{name}.mlp.fc1")
        structure.inputs[f"{name}.mlp.fc2"] = "post_gelu" if isinstance(block.mlp.act, nn.GELU) else "other"
    structure.segments.append(Segment(name, block, (name,), channel=1))
