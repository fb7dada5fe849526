"""Attention whose operands are rounded where they are made, so that what moves between its products is int8.

Rounding with one scale for a tensor commutes with reshaping and transposing it: query, key and value are rounded as the
parts of `qkv` come out, and the input of `proj` before the heads are joined.
"""

from __future__ import annotations

from torch import Tensor, nn

from vitq.deploy.onnx.logarithms import LogContext
from vitq.deploy.onnx.products import IntegerContext, IntegerLinear, IntegerScores
from vitq.quant.attention import QuantAttention, QuantWindowAttention


class IntegerAttention(nn.Module):
    """Takes the place of a `QuantAttention` whose layers and matmuls have their integer forms."""

    def __init__(self, attention: QuantAttention):
        super().__init__()
        normed = not (isinstance(attention.q_norm, nn.Identity) and isinstance(attention.k_norm, nn.Identity))
        self.heads = Heads(attention.qkv, attention.num_heads, *_rounds(attention, normed))
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm
        self.scores, self.softmax, self.context = attention.scores, attention.softmax, attention.context
        self.scale, self.gate = attention.scale, attention.gate
        self.norm, self.proj = attention.norm, attention.proj
        self.early = attention.gate is None and isinstance(attention.norm, nn.Identity)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        gate = self.gate(x).sigmoid() if self.gate is not None else None
        q, k, v = self.heads(x)
        probs = self.softmax(self.scores(self.q_norm(q), self.k_norm(k), transpose=True) * self.scale)
        out = self.context(probs, v)
        if self.early:
            return join(out, self.proj)
        out = self.norm(out.transpose(1, 2).flatten(2))
        projected: Tensor = self.proj(out if gate is None else out * gate)
        return projected


class IntegerWindowAttention(nn.Module):
    """Takes the place of a `QuantWindowAttention`."""

    def __init__(self, attention: QuantWindowAttention):
        super().__init__()
        self.heads = Heads(attention.qkv, attention.num_heads, *_rounds(attention, normed=False))
        self.scores, self.softmax, self.context = attention.scores, attention.softmax, attention.context
        self.scale, self.proj = attention.scale, attention.proj
        self.register_buffer("position_bias", attention._position_bias().detach())

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.heads(x)
        scores = self.scores(q, k, transpose=True) * self.scale + self.get_buffer("position_bias")
        return join(self.context(self.softmax(scores, mask), v), self.proj)


class Heads(nn.Module):
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


def _rounds(attention: QuantAttention | QuantWindowAttention, normed: bool) -> list[nn.Module]:
    """Takes the rounding of query, key and value out of the products, where nothing stands between them and `qkv`."""
    found: list[nn.Module] = [nn.Identity() for _ in range(3)]
    scores, context = attention.scores, attention.context
    if isinstance(scores, IntegerScores) and not normed:
        found[0], found[1], scores.query, scores.key = scores.query, scores.key, nn.Identity(), nn.Identity()
    if isinstance(context, IntegerContext | LogContext):
        found[2], context.value = context.value, nn.Identity()
    return found


def join(out: Tensor, proj: nn.Module) -> Tensor:
    """(B, h, N, d) heads, joined and projected: (B, N, C)."""
    if isinstance(proj, IntegerLinear):
        return proj.multiply([x.transpose(1, 2).flatten(2) for x in proj.inputs(out, heads=out.shape[1])])[0]
    joined: Tensor = proj(out.transpose(1, 2).flatten(2))
    return joined
