"""Attention pooling (SigLIP's MAP head): learned tokens look at all others, then an MLP."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from vitq.models.attention import AttentionTwin


class LatentPooling(AttentionTwin):
    """Twin of timm's AttentionPoolLatent: the query comes from learned tokens, key and value from all, (B, N, C)."""

    joint: ClassVar[bool] = False
    shared = ("q", "kv", "proj", "latent", "pos_embed", "norm", "mlp", "pool")
    q: nn.Module
    kv: nn.Module
    latent: nn.Parameter
    pos_embed: nn.Parameter | None
    norm: nn.Module
    mlp: nn.Module
    pool: str

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        x = x if self.pos_embed is None else x + self.pos_embed
        parts = (self.q(self.latent.expand(len(x), -1, -1)), *self.kv(x).chunk(2, dim=-1))
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        heads = self.attend(query, key, value, None, *args, **kwargs)
        out: Tensor = self.proj(heads.transpose(1, 2).flatten(2))
        out = out + self.mlp(self.norm(out))
        if self.pool == "token":
            return out[:, 0]
        return out.mean(1) if self.pool == "avg" else out

    def mask(self, attn_mask: Tensor | None = None) -> None:
        if attn_mask is not None:
            raise ValueError("attention masks are not supported: image classifiers use none")

    def learnable(self) -> list[nn.Parameter]:
        return [self.latent]
