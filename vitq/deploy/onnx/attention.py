"""Attention whose operands are rounded where they are made, so that what moves between its products is int8.

Rounding with one scale for a tensor commutes with reshaping and transposing it: query, key and value are rounded as the
parts of `qkv` come out, and the input of `proj` before the heads are joined.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vitq.deploy.onnx.logarithms import LogContext
from vitq.deploy.onnx.products import IntegerContext, IntegerLinear, IntegerScores
from vitq.models.attention import AttentionTwin


class IntegerAttention(nn.Module):
    """Replaces a twin whose layers and matmuls have their integer forms. Changes the twin."""

    bias: Tensor | None

    def __init__(self, twin: AttentionTwin):
        super().__init__()
        self.heads, self.proj = RoundedHeads(twin.qkv, twin.num_heads, *_rounds(twin)), twin.proj
        bias = twin.bias()
        self.register_buffer("bias", None if bias is None else bias.detach())
        # What moved here has no second name.
        for name in ("qkv", "proj"):
            setattr(twin, name, nn.Identity())
        self.twin = twin

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        query, key, value = self.heads(x)
        out = self.twin.attend(query, key, value, self.bias, self.twin.mask(*args, **kwargs))
        if self.twin.bare_proj:
            return join(out, self.proj)
        projected: Tensor = self.proj(self.twin.before_proj(out.transpose(1, 2).flatten(2), x))
        return projected


class RoundedHeads(nn.Module):
    """Query, key and value, (B, h, N, d) each, of (B, N, C). rounds: what rounds each of them here."""

    def __init__(self, qkv: nn.Module, heads: int, *rounds: nn.Module):
        super().__init__()
        self.qkv, self.count, self.rounds = qkv, heads, nn.ModuleList(rounds)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.qkv, IntegerLinear):
            made = self.qkv.multiply(self.qkv.inputs(x))
        else:
            made = list(self.qkv(x).chunk(3, dim=-1))
        rounded = [module(part) for module, part in zip(self.rounds, made, strict=True)]
        return tuple(part.unflatten(-1, (self.count, -1)).transpose(1, 2) for part in rounded)


def _rounds(twin: AttentionTwin) -> list[nn.Module]:
    """Takes the rounding of query, key and value out of the products, where nothing stands between them and `qkv`."""
    rounds: list[nn.Module] = [nn.Identity() for _ in range(3)]
    scores, context = twin.scores, twin.context
    if isinstance(scores, IntegerScores) and twin.bare_scores:
        rounds[0], rounds[1], scores.query, scores.key = scores.query, scores.key, nn.Identity(), nn.Identity()
    if isinstance(context, IntegerContext | LogContext):
        rounds[2], context.value = context.value, nn.Identity()
    return rounds


def join(out: Tensor, proj: nn.Module) -> Tensor:
    """(B, h, N, d) heads, joined and projected: (B, N, C)."""
    if isinstance(proj, IntegerLinear):
        return proj.multiply([x.transpose(1, 2).flatten(2) for x in proj.inputs(out, heads=out.shape[1])])[0]
    joined: Tensor = proj(out.transpose(1, 2).flatten(2))
    return joined
