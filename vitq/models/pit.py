"""Structure of timm's PoolingVisionTransformer (PiT): ViT blocks in three stages, convolutions pool between them."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from timm.models.pit import PoolingVisionTransformer, Transformer
from torch import Tensor, nn

from vitq.models.isotropic import Isotropic
from vitq.models.structure import Structure, register_family
from vitq.models.vit import GlobalAttention, vit_block


@register_family("pit", PoolingVisionTransformer, GlobalAttention)
def pit_structure(model: nn.Module) -> Structure:
    """Structure of a PiT. Raises ModelError for blocks that the engine does not know."""
    pit = cast(PoolingVisionTransformer, model)
    parts = Isotropic("pit", pit)
    parts.fix("a stage's stream ends in a convolution of single channels")
    parts.segment("patch_embed", lambda x: _embed(pit, x), ("patch_embed",))
    height, width = pit.patch_embed.grid_size
    for index, stage in enumerate(cast(list[Transformer], list(pit.transformers))):
        name = f"transformers.{index}"
        if stage.pool is not None:
            parts.structure.inputs |= {f"{name}.pool.conv": "other", f"{name}.pool.fc": "other"}
            pool = partial(_pool, stage.pool, pit.num_tokens, (height, width))
            parts.segment(f"{name}.pool", pool, (f"{name}.pool",))
            height, width = (height + 1) // 2, (width + 1) // 2
        for position, block in enumerate(stage.blocks):
            vit_block(parts, f"{name}.blocks.{position}", block)
            parts.segment(f"{name}.blocks.{position}", block, (f"{name}.blocks.{position}",))
    return parts.tail(("cls_token", "pos_embed"))


def _embed(pit: PoolingVisionTransformer, x: Tensor) -> Tensor:
    patches = (pit.patch_embed(x) + pit.pos_embed).flatten(2).transpose(1, 2)
    return torch.cat((pit.cls_token.expand(len(x), -1, -1), patches), dim=1)


def _pool(pool: nn.Module, tokens: int, grid: tuple[int, int], x: Tensor) -> Tensor:
    """(B, tokens + H·W, C) of one stage to that of the next one."""
    patches, first = pool(x[:, tokens:].transpose(1, 2).unflatten(2, grid), x[:, :tokens])
    return torch.cat((first, patches.flatten(2).transpose(1, 2)), dim=1)
