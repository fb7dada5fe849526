"""Structure of timm's VisionTransformerRelPos: ViTs with a bias for every relative position, by a table or an MLP."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from timm.layers import RelPosBias
from timm.models.vision_transformer_relpos import (
    RelPosAttention,
    RelPosBlock,
    ResPostRelPosBlock,
    VisionTransformerRelPos,
)
from torch import Tensor, nn

from vitq.models.attention import AttentionTwin
from vitq.models.isotropic import Isotropic, SharedInput
from vitq.models.structure import Structure, register_family, unsupported


class RelativeAttention(AttentionTwin):
    """Self-attention over all tokens. The position bias, of the layer or of the model, does not depend on the image:
    where an MLP makes it, this is no site, and its result a constant of exported models."""

    shared: ClassVar[tuple[str, ...]] = ("rel_pos",)
    rel_pos: nn.Module | None

    def mask(self, shared_rel_pos: Tensor | None = None) -> None:
        return None

    def shared_bias(self, shared_rel_pos: Tensor | None = None) -> Tensor | None:
        return shared_rel_pos if self.rel_pos is None else None

    def bias(self) -> Tensor | None:
        return None if self.rel_pos is None else self.rel_pos.get_bias()[0]  # type: ignore[operator]

    def learnable(self) -> list[nn.Parameter]:
        return [self.rel_pos.relative_position_bias_table] if isinstance(self.rel_pos, RelPosBias) else []


@register_family("vit_relpos", VisionTransformerRelPos, RelativeAttention)
def relpos_structure(model: nn.Module) -> Structure:
    """Structure of a VisionTransformerRelPos. Raises ModelError for stems and blocks that the engine does not know."""
    vit = cast(VisionTransformerRelPos, model)
    parts = Isotropic("vit_relpos", vit)
    parts.segment("patch_embed", lambda x: _embed(vit, x), ("patch_embed",))

    def shared(_: Tensor) -> dict[str, Tensor | None]:
        return {"shared_rel_pos": None if vit.shared_rel_pos is None else vit.shared_rel_pos.get_bias()}

    for index, block in enumerate(vit.blocks):
        name, behind = f"blocks.{index}", type(block) is ResPostRelPosBlock
        if type(block) not in (RelPosBlock, ResPostRelPosBlock) or type(block.attn) is not RelPosAttention:
            raise unsupported(vit, name, f"of type {type(block).__name__}", "timm's RelPosBlock, ResPostRelPosBlock")
        parts.attention(f"{name}.attn", f"{name}.norm1", f"{name}.ls1.gamma", behind)
        parts.mlp(f"{name}.mlp", f"{name}.norm2", f"{name}.ls2.gamma", behind)
        parts.segment(name, SharedInput(block, shared), (name,))
    return parts.tail(("cls_token",))


def _embed(vit: VisionTransformerRelPos, x: Tensor) -> Tensor:
    x = vit.patch_embed(x)
    return x if vit.cls_token is None else torch.cat((vit.cls_token.expand(len(x), -1, -1), x), dim=1)
