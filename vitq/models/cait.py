"""Structure of timm's Cait: attention whose heads are mixed before and behind the softmax, then class attention."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from timm.models.cait import Cait, ClassAttn, LayerScaleBlock, LayerScaleBlockClassAttn, TalkingHeadAttn
from torch import Tensor, nn

from vitq.models.attention import AttentionTwin
from vitq.models.isotropic import Isotropic
from vitq.models.structure import Structure, register_family, unsupported


class TalkingHeads(AttentionTwin):
    """Self-attention over all tokens. What multiplies the values are no probabilities: it may be below 0."""

    shared = ("proj_l", "proj_w")
    weights = "other"
    proj_l: nn.Module
    proj_w: nn.Module

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        scores = _across(self.proj_l, self.scores(query, key, transpose=True) * self.scale)
        out: Tensor = self.context(_across(self.proj_w, self.softmax(scores, None)), value)
        return out


class ClassAttention(AttentionTwin):
    """The class token looks at all tokens: (B, 1 + N, C) ↦ (B, 1, C)."""

    joint: ClassVar[bool] = False
    shared = ("q", "k", "v", "proj")
    q: nn.Module
    k: nn.Module
    v: nn.Module

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        made = (self.q(x[:, :1]), self.k(x), self.v(x))
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in made)
        out: Tensor = self.proj(self.attend(query, key, value, None).transpose(1, 2).flatten(2))
        return out


@register_family("cait", Cait, TalkingHeads)
def cait_structure(model: nn.Module) -> Structure:
    """Structure of a Cait. Raises ModelError for blocks that the engine does not know."""
    cait = cast(Cait, model)
    parts = Isotropic("cait", cait)
    parts.segment("patch_embed", lambda x: cait.patch_embed(x) + cait.pos_embed, ("patch_embed",))
    for index, block in enumerate(cait.blocks):
        name = f"blocks.{index}"
        if type(block) is not LayerScaleBlock or type(block.attn) is not TalkingHeadAttn:
            raise unsupported(cait, name, f"of type {type(block).__name__}", "timm's LayerScaleBlock")
        parts.attention(f"{name}.attn", f"{name}.norm1", f"{name}.gamma_1")
        parts.structure.inputs |= {f"{name}.attn.proj_l": "other", f"{name}.attn.proj_w": "probs"}
        parts.mlp(f"{name}.mlp", f"{name}.norm2", f"{name}.gamma_2")
        parts.segment(name, block, (name,))
    for index, block in enumerate(cait.blocks_token_only):
        name = f"blocks_token_only.{index}"
        if type(block) is not LayerScaleBlockClassAttn or type(block.attn) is not ClassAttn:
            raise unsupported(cait, name, f"of type {type(block).__name__}", "timm's LayerScaleBlockClassAttn")
        parts.structure.attentions.append(f"{name}.attn")
        parts.structure.twins[f"{name}.attn"] = ClassAttention
        # The range of a link is its first layer's: the query sees the class token alone, key and value see all tokens.
        parts.read(f"{name}.norm1", [f"{name}.attn.{part}" for part in "kvq"])
        parts.structure.inputs[f"{name}.attn.proj"] = "attn_out"
        parts.write(f"{name}.attn.proj", f"{name}.gamma_1")
        parts.mlp(f"{name}.mlp", f"{name}.norm2", f"{name}.gamma_2")
        parts.segment(name, _ClassBlock(cait, block, first=index == 0), (name,))
    return parts.tail(("cls_token", "pos_embed"))


class _ClassBlock(nn.Module):
    """A class block over (B, 1 + N, C), class token first; the first one gets the patches alone and adds the token."""

    def __init__(self, cait: Cait, block: nn.Module, first: bool):
        super().__init__()
        self.block = block
        self.token = cait.cls_token if first else None

    def forward(self, x: Tensor) -> Tensor:
        if self.token is not None:
            x = torch.cat((self.token.expand(len(x), -1, -1), x), dim=1)
        return torch.cat((self.block(x[:, 1:], x[:, :1]), x[:, 1:]), dim=1)


def _across(mixer: nn.Module, x: Tensor) -> Tensor:
    """A layer over the heads of (B, heads, N, N)."""
    out: Tensor = mixer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return out
