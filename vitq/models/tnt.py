"""Structure of timm's TNT: in each block the pixels of a patch look at each other, then patches do."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from timm.models.tnt import TNT, Block
from torch import Tensor, nn

from vitq.models.attention import AttentionTwin
from vitq.models.structure import Segment, Structure, register_family, unsupported


class PairedAttention(AttentionTwin):
    """Self-attention over all tokens whose query and key come from one layer, and value from another."""

    joint: ClassVar[bool] = False
    shared = ("qk", "v", "proj")
    qk: nn.Module
    v: nn.Module

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        made = (*self.qk(x).chunk(2, dim=-1), self.v(x))
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in made)
        out: Tensor = self.proj(self.attend(query, key, value, None).transpose(1, 2).flatten(2))
        return out


@register_family("tnt", TNT, PairedAttention)
def tnt_structure(model: nn.Module) -> Structure:
    """Structure of a TNT. Raises ModelError for blocks that the engine does not know.

    Between segments each token (B, 1 + patches, C) carries the pixels of its patch in front of its own channels; those
    of the class token are zeros.
    """
    tnt = cast(TNT, model)
    structure = Structure("tnt", tnt, inputs={"pixel_embed.proj": "patch"}, stem=("pixel_embed.proj",))
    structure.link("norm1_proj", "proj")
    modules = ("pixel_embed", "norm1_proj", "proj", "norm2_proj")
    structure.segments.append(Segment("pixel_embed", lambda x: _embed(tnt, x), modules))
    for index, block in enumerate(tnt.blocks):
        name = f"blocks.{index}"
        if type(block) is not Block:
            raise unsupported(tnt, name, f"of type {type(block).__name__}", "timm's Block of TNT")
        for which in ("in", "out"):
            attention, mlp = f"{name}.attn_{which}", f"{name}.mlp_in" if which == "in" else f"{name}.mlp"
            structure.attentions.append(attention)
            structure.link(f"{name}.norm_{which}", f"{attention}.qk", f"{attention}.v")
            structure.link(f"{name}.norm_{mlp.removeprefix(f'{name}.')}", f"{mlp}.fc1")
            gelu = isinstance(tnt.get_submodule(mlp).act, nn.GELU)
            structure.inputs |= {f"{attention}.proj": "attn_out", f"{mlp}.fc2": "post_gelu" if gelu else "other"}
        if block.norm2_proj is None:  # the norm is over a pixel's channels, the layer reads all pixels of a patch
            structure.inputs[f"{name}.proj"] = "other"
        else:
            structure.link(f"{name}.norm1_proj", f"{name}.proj")
        structure.segments.append(Segment(name, _PackedBlock(block), (name,)))
    structure.end(lambda x: tnt.forward_head(tnt.norm(x[..., -tnt.embed_dim :])), "norm", "head")
    return structure


class _PackedBlock(nn.Module):
    """A block over tokens that carry their pixels (B, 1 + patches, pixels · inner channels + C)."""

    def __init__(self, block: Block):
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        block: Any = self.block
        inner, width = block.norm_in.normalized_shape[0], block.norm_out.normalized_shape[0]
        pixels = x[:, 1:, :-width].unflatten(-1, (-1, inner)).flatten(0, 1)
        return _packed(*self.block(pixels, x[..., -width:]))


def _embed(tnt: TNT, x: Tensor) -> Tensor:
    pixels: Tensor = tnt.pixel_embed(x, tnt.pixel_pos)
    patches = tnt.norm2_proj(tnt.proj(tnt.norm1_proj(pixels.reshape(len(x), tnt.num_patches, -1))))
    patches = torch.cat((tnt.cls_token.expand(len(x), -1, -1), patches), dim=1)
    return _packed(pixels, patches + tnt.patch_pos)


def _packed(pixels: Tensor, patches: Tensor) -> Tensor:
    """(B·P, n, c) and (B, 1 + P, C) as (B, 1 + P, n·c + C)."""
    beside = pixels.flatten(1).unflatten(0, (len(patches), -1))
    return torch.cat((nn.functional.pad(beside, (0, 0, 1, 0)), patches), dim=-1)
