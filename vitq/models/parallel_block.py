"""timm's ParallelScalingBlock (ViT-22B): one layer makes query, key, value and the MLP's hidden channels."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from timm.models.vision_transformer import ParallelScalingBlock
from torch import Tensor, nn

from vitq.models.attention import AttentionTwin
from vitq.models.isotropic import Isotropic


class ParallelAttention(AttentionTwin):
    """Twin of the whole block over (B, N, C): x + scale·(attention + MLP)."""

    joint: ClassVar[bool] = False
    shared = (
        *("in_norm", "in_proj", "in_split", "mlp_bias", "mlp_act"),
        *("out_proj", "attn_out_proj", "mlp_out_proj", "ls"),
    )
    in_norm: nn.Module
    in_proj: nn.Module
    in_split: list[int]
    mlp_bias: nn.Parameter | None
    mlp_act: nn.Module
    out_proj: nn.Module | None
    attn_out_proj: nn.Module
    mlp_out_proj: nn.Module
    ls: nn.Module

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        hidden, *parts = self.in_proj(self.in_norm(x)).split(self.in_split, dim=-1)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        heads = self.attend(query, key, value, None, *args, **kwargs).transpose(1, 2).flatten(2)
        hidden = self.mlp_act(hidden if self.mlp_bias is None else hidden + self.mlp_bias)
        if self.out_proj is None:
            added = self.attn_out_proj(heads) + self.mlp_out_proj(hidden)
        else:
            added = self.out_proj(torch.cat((heads, hidden), dim=-1))
        out: Tensor = x + self.ls(added)
        return out

    def mask(self, attn_mask: Tensor | None = None, is_causal: bool = False) -> None:
        if attn_mask is not None or is_causal:
            raise ValueError("attention masks are not supported: image classifiers of the ViT family use none")


def parallel_block(parts: Isotropic, name: str, block: ParallelScalingBlock) -> None:
    """Report one such block."""
    inputs = parts.structure.inputs
    parts.structure.attentions.append(name)
    parts.structure.twins[name] = ParallelAttention
    parts.read(f"{name}.in_norm", [f"{name}.in_proj"])
    if block.out_proj is None:
        inputs[f"{name}.attn_out_proj"] = "attn_out"
        inputs[f"{name}.mlp_out_proj"] = "post_gelu" if isinstance(block.mlp_act, nn.GELU) else "other"
        parts.write(f"{name}.attn_out_proj", f"{name}.ls.gamma", also=(f"{name}.mlp_out_proj",))
    else:
        inputs[f"{name}.out_proj"] = "other"
        parts.write(f"{name}.out_proj", f"{name}.ls.gamma")
    joined = f"{name}.in_proj makes the hidden channels of the MLP too"
    parts.heads(f"{name}.in_proj", f"{name}.{'out_proj' if block.out_proj else 'attn_out_proj'}", block, joined, joined)
