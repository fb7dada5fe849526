"""Structure of timm's Eva: EVA, EVA02, DINOv3, PE and other ViTs with rotary position embeddings."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn

from vitq.errors import Problem
from vitq.models.attention import Parts
from vitq.models.isotropic import Isotropic, SharedInput
from vitq.models.structure import Structure, register_family, unsupported
from vitq.models.vit import GlobalAttention


class RotaryAttention(GlobalAttention):
    """Self-attention over all tokens, query and key of patches rotated by their positions."""

    def __init__(self, attention: nn.Module, name: str, parts: Parts):
        super().__init__(attention, name, parts)
        self.prefix, self.rotate_half = cast(int, attention.num_prefix_tokens), bool(attention.rotate_half)

    def mask(self, attn_mask: Tensor | None = None, is_causal: bool = False, rope: Tensor | None = None) -> None:
        super().mask(attn_mask, is_causal)

    def before_scores(
        self, query: Tensor, key: Tensor, rope: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """rope: sines and cosines, (patches, 2d) or (heads, patches, 2d); None for models without them."""
        query, key = super().before_scores(query, key)
        return (query, key) if rope is None else (self._turn(query, rope), self._turn(key, rope))

    def _turn(self, x: Tensor, rope: Tensor) -> Tensor:
        patches = apply_rot_embed_cat(x[:, :, self.prefix :], rope, half=self.rotate_half)
        return torch.cat([x[:, :, : self.prefix], patches], dim=2)

    @property
    def bare_scores(self) -> bool:
        return False


@register_family("eva", Eva, RotaryAttention)
def eva_structure(model: nn.Module) -> Structure:
    """Structure of an Eva. Raises ModelError for grouped-query attention, stems and pools that the engine has not."""
    eva = cast(Eva, model)
    parts = Isotropic("eva", eva)
    parts.segment("patch_embed", lambda x: eva.norm_pre(_embed(eva, x)[0]), ("patch_embed", "norm_pre"))
    for index, block in enumerate(eva.blocks):
        name, attention = f"blocks.{index}", cast(nn.Module, block.attn)
        if type(block) not in (EvaBlock, EvaBlockPostNorm):
            raise unsupported(eva, name, f"of type {type(block).__name__}", "timm's EvaBlock, EvaBlockPostNorm")
        if type(attention) not in (EvaAttention, AttentionRope):
            valid = "timm's EvaAttention, AttentionRope"
            raise unsupported(eva, f"{name}.attn", f"of type {type(attention).__name__}", valid)
        if attention.qkv is None:
            raise unsupported(eva, f"{name}.attn", "grouped-query attention", "as many keys and values as queries")
        behind = type(block) is EvaBlockPostNorm
        parts.attention(f"{name}.attn", f"{name}.norm1", f"{name}.gamma_1", behind, rotary=eva.rope is not None)
        parts.mlp(f"{name}.mlp", f"{name}.norm2", f"{name}.gamma_2", behind)
        if eva.rope_mixed or index == 0:  # else all blocks have the same, and share compiled code
            shared = partial(_shared, eva, index)
        parts.segment(name, SharedInput(block, shared), (name,))
    return parts.tail(("cls_token", "reg_token", "pos_embed"))


def _embed(eva: Eva, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The tokens, and the sines and cosines.

    Raises ValueError for images whose rows and columns `_grid` would not know again.
    """
    if eva.rope is not None and eva.dynamic_img_size:
        embed = eva.patch_embed
        rows, columns = embed.dynamic_feat_size((x.shape[-2], x.shape[-1]))
        built = cast(tuple[int, int], embed.grid_size)
        if (rows, columns) != built and (rows != columns or rows * columns == built[0] * built[1]):
            text = f"{rows}x{columns} patches, where the model was built for {built[0]}x{built[1]}"
            action = "images other than square ones need a model that is built for their size: model.kwargs.img_size"
            raise ValueError(Problem(f"{text}; {action}", "model.kwargs.img_size", (rows, columns), [built]))
    embedded: tuple[Tensor, Tensor | None] = eva._pos_embed(eva.patch_embed(x))
    return embedded


def _shared(eva: Eva, index: int, x: Tensor) -> dict[str, Tensor | None]:
    rope = None if eva.rope is None else cast(Any, eva.rope).get_embed(shape=_grid(eva, x))
    return {"rope": rope[index] if eva.rope_mixed and rope is not None else rope}


def _grid(eva: Eva, x: Tensor) -> tuple[int, int] | None:
    """Rows and columns of patches; None where the model keeps its sines and cosines itself."""
    if hasattr(eva.rope, "feat_shape") and not eva.dynamic_img_size:
        return None
    built, patches = cast(tuple[int, int], eva.patch_embed.grid_size), x.shape[1] - eva.num_prefix_tokens
    if patches == built[0] * built[1]:
        return built
    side = math.isqrt(patches)
    return side, side
