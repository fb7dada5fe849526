"""Structure of timm's Beit: BEiT and BEiT v2, ViTs with a bias for every relative position and none for keys."""

from __future__ import annotations

from typing import cast

import torch
from timm.models.beit import Attention, Beit, Block
from torch import Tensor, nn

from vitq.models.attention import AttentionTwin
from vitq.models.isotropic import Isotropic, SharedInput
from vitq.models.structure import Structure, register_family, unsupported


class BiasedAttention(AttentionTwin):
    """Self-attention over all tokens with a table of relative positions, its own or the model's, or none."""

    shared = ("relative_position_bias_table", "relative_position_index")
    relative_position_bias_table: nn.Parameter | None
    relative_position_index: Tensor

    def mask(self, shared_rel_pos_bias: Tensor | None = None) -> None:
        return None

    def shared_bias(self, shared_rel_pos_bias: Tensor | None = None) -> Tensor | None:
        return shared_rel_pos_bias

    def bias(self) -> Tensor | None:
        if self.relative_position_bias_table is None:
            return None
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).contiguous()

    def learnable(self) -> list[nn.Parameter]:
        return [] if self.relative_position_bias_table is None else [self.relative_position_bias_table]


@register_family("beit", Beit, BiasedAttention)
def beit_structure(model: nn.Module) -> Structure:
    """Structure of a Beit. Raises ModelError for blocks that the engine does not know."""
    beit = cast(Beit, model)
    parts = Isotropic("beit", beit)
    parts.segment("patch_embed", lambda x: _embed(beit, x), ("patch_embed",))

    def shared(_: Tensor) -> dict[str, Tensor | None]:
        return {"shared_rel_pos_bias": None if beit.rel_pos_bias is None else beit.rel_pos_bias()}

    for index, block in enumerate(beit.blocks):
        name = f"blocks.{index}"
        if type(block) is not Block or type(block.attn) is not Attention:
            raise unsupported(beit, name, f"of type {type(block).__name__}", "timm's Block of BEiT")
        parts.attention(f"{name}.attn", f"{name}.norm1", f"{name}.gamma_1")
        parts.mlp(f"{name}.mlp", f"{name}.norm2", f"{name}.gamma_2")
        parts.segment(name, SharedInput(block, shared), (name,))
    return parts.tail(("cls_token", "pos_embed"))


def _embed(beit: Beit, x: Tensor) -> Tensor:
    x = beit.patch_embed(x)
    x = torch.cat((beit.cls_token.expand(len(x), -1, -1), x), dim=1)
    return x if beit.pos_embed is None else x + beit.pos_embed
