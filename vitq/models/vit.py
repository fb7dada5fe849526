"""Structure of timm's VisionTransformer: pre-norm, post-norm and parallel blocks, registers, attention pooling."""

from __future__ import annotations

from typing import cast

from timm.layers.attention import Attention
from timm.models.vision_transformer import (
    Block,
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)
from torch import Tensor, nn

from vitq.models.attention import AttentionTwin
from vitq.models.isotropic import Isotropic
from vitq.models.parallel_block import parallel_block
from vitq.models.structure import Structure, register_family, unsupported


class GlobalAttention(AttentionTwin):
    """Self-attention over all tokens; where timm has them, norms of query, key and the joined heads, and a gate."""

    shared = ("norm", "gate")
    norm: nn.Module
    gate: nn.Module | None

    def mask(self, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor | None:
        if attn_mask is not None or is_causal:
            raise ValueError("attention masks are not supported: image classifiers of the ViT family use none")
        return None

    def before_proj(self, out: Tensor, x: Tensor) -> Tensor:
        out = self.norm(out)
        return out if self.gate is None else out * self.gate(x).sigmoid()

    @property
    def bare_proj(self) -> bool:
        return self.gate is None and isinstance(self.norm, nn.Identity)


@register_family("vit", VisionTransformer, GlobalAttention)
def vit_structure(model: nn.Module) -> Structure:
    """Structure of a VisionTransformer. Raises ModelError for blocks, stems or pools that the engine does not know."""
    vit = cast(VisionTransformer, model)
    parts = Isotropic("vit", vit)
    parts.segment("patch_embed", lambda x: _stem(vit, x), ("patch_embed", "norm_pre"))
    for index, block in enumerate(vit.blocks):
        name = f"blocks.{index}"
        if type(block) is ParallelScalingBlock:
            parallel_block(parts, name, block)
        else:
            vit_block(parts, name, block)
        parts.segment(name, block, (name,))
    return parts.tail(("cls_token", "dist_token", "reg_token", "pos_embed"))


def vit_block(parts: Isotropic, name: str, block: nn.Module) -> None:
    """Report one block other than ParallelScalingBlock. Raises ModelError for those that the engine does not know."""
    if type(block) in (Block, ResPostBlock):
        behind = type(block) is ResPostBlock
        _attention(parts, f"{name}.attn", f"{name}.norm1", f"{name}.ls1.gamma", behind)
        parts.mlp(f"{name}.mlp", f"{name}.norm2", f"{name}.ls2.gamma", behind)
    elif type(block) is ParallelThingsBlock:
        for inner in (f"{name}.attns.{index}" for index in range(len(block.attns))):
            _attention(parts, f"{inner}.attn", f"{inner}.norm", f"{inner}.ls.gamma")
        for inner in (f"{name}.ffns.{index}" for index in range(len(block.ffns))):
            parts.mlp(f"{inner}.mlp", f"{inner}.norm", f"{inner}.ls.gamma")
    else:
        valid = "timm's Block, ResPostBlock, ParallelScalingBlock, ParallelThingsBlock"
        raise unsupported(parts.model, name, f"of type {type(block).__name__}", valid)


def _attention(parts: Isotropic, name: str, norm: str, scale: str, behind: bool = False) -> None:
    attention = parts.model.get_submodule(name)
    if type(attention) is not Attention:
        raise unsupported(parts.model, name, f"of type {type(attention).__name__}", "timm's Attention")
    parts.attention(name, norm, scale, behind)


def _stem(vit: VisionTransformer, x: Tensor) -> Tensor:
    out: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))
    return out
