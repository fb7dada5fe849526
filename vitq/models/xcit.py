"""Structure of timm's Xcit: attention between channels, local convolutions, then class attention."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, cast

import torch
from timm.models.xcit import ClassAttentionBlock, XCABlock, Xcit
from torch import Tensor, nn
from torch.nn import functional as F

from vitq.errors import Problem
from vitq.models.attention import AttentionTwin
from vitq.models.cait import ClassAttention
from vitq.models.isotropic import Isotropic, SharedInput
from vitq.models.structure import Structure, register_family, unsupported


class CrossCovariance(AttentionTwin):
    """Attention of each head's channels to each other: scores are (d, d), query and key of length 1 over all tokens."""

    over_tokens: ClassVar[bool] = False
    shared = ("temperature",)
    temperature: nn.Parameter

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        query, key = self.before_scores(query.transpose(-2, -1), key.transpose(-2, -1))
        scores = self.scores(query, key, transpose=True) * self.temperature
        out: Tensor = self.context(self.softmax(scores, None), value.transpose(-2, -1))
        return out.transpose(-2, -1)

    def before_scores(self, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return F.normalize(query, dim=-1), F.normalize(key, dim=-1)

    @property
    def bare_scores(self) -> bool:
        return False

    def learnable(self) -> list[nn.Parameter]:
        return [self.temperature]


@register_family("xcit", Xcit, CrossCovariance)
def xcit_structure(model: nn.Module) -> Structure:
    """Structure of an Xcit. Raises ModelError for blocks that the engine does not know.

    Norms of the class blocks are no links: what they give is added to the stream, too.
    """
    xcit = cast(Xcit, model)
    parts = Isotropic("xcit", xcit)
    inputs = parts.structure.inputs
    parts.fix("local_mp convolves single channels")
    parts.segment("patch_embed", lambda x: _embed(xcit, x), ("patch_embed",))
    grid = partial(_grid, xcit)
    for index, block in enumerate(xcit.blocks):
        name = f"blocks.{index}"
        if type(block) is not XCABlock:
            raise unsupported(xcit, name, f"of type {type(block).__name__}", "timm's XCABlock")
        parts.structure.attentions.append(f"{name}.attn")
        parts.read(f"{name}.norm1", [f"{name}.attn.qkv"])
        inputs |= {f"{name}.attn.proj": "attn_out"}
        inputs |= dict.fromkeys((f"{name}.local_mp.conv1", f"{name}.local_mp.conv2"), "other")
        parts.mlp(f"{name}.mlp", f"{name}.norm2", f"{name}.gamma2")
        parts.segment(name, SharedInput(block, grid), (name,))
    for index, block in enumerate(xcit.cls_attn_blocks):
        name = f"cls_attn_blocks.{index}"
        if type(block) is not ClassAttentionBlock:
            raise unsupported(xcit, name, f"of type {type(block).__name__}", "timm's ClassAttentionBlock")
        parts.structure.attentions.append(f"{name}.attn")
        parts.structure.twins[f"{name}.attn"] = ClassAttention
        inputs |= dict.fromkeys((f"{name}.attn.{part}" for part in "qkv"), "other")
        inputs |= {f"{name}.attn.proj": "attn_out", f"{name}.mlp.fc1": "other"}
        inputs[f"{name}.mlp.fc2"] = "post_gelu" if isinstance(block.mlp.act, nn.GELU) else "other"
        parts.segment(name, partial(_first, xcit, block) if index == 0 else block, (name,))
    return parts.tail(("cls_token",))


def _embed(xcit: Xcit, x: Tensor) -> Tensor:
    patches, (height, width) = xcit.patch_embed(x)
    if xcit.pos_embed is None:
        return cast(Tensor, patches)
    positions: Tensor = xcit.pos_embed(len(x), height, width)
    return cast(Tensor, patches + positions.flatten(2).transpose(1, 2))


def _first(xcit: Xcit, block: nn.Module, x: Tensor) -> Tensor:
    """The first class block gets the patches alone."""
    out: Tensor = block(torch.cat((xcit.cls_token.expand(len(x), -1, -1), x), dim=1))
    return out


def _grid(xcit: Xcit, x: Tensor) -> dict[str, int]:
    """Rows and columns of the patches (B, N, C). Raises ValueError for other images than square ones, where the model
    was not built for their size."""
    embed = xcit.patch_embed
    height, width = (side // embed.patch_size for side in cast(tuple[int, int], embed.img_size))
    if height * width != x.shape[1]:
        height = width = math.isqrt(x.shape[1])
    if height * width != x.shape[1]:
        text = f"{x.shape[1]} patches of an image that is not square; build the model for it: model.kwargs.img_size"
        raise ValueError(Problem(text, "model.kwargs.img_size", x.shape[1]))
    return {"H": height, "W": width}
