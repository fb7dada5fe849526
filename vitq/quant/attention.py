"""timm's attention with its two matmuls written out, so that all four operands are sites."""

from __future__ import annotations

from timm.layers.attention import Attention
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from vitq.quant.layers import QuantMatmul
from vitq.quant.softmax import QuantSoftmax


class QuantAttention(nn.Module):
    """Global self-attention of ViT/DeiT over (B, N, C) tokens. Shares the submodules of the layer it replaces."""

    def __init__(self, attention: Attention, name: str):
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = attention.num_heads, attention.head_dim, attention.attn_dim
        self.scale = attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        self.q_norm, self.k_norm, self.norm = attention.q_norm, attention.k_norm, attention.norm
        self.gate = attention.gate
        self.scores = QuantMatmul(f"{name}.scores", "query", "key")
        self.context = QuantMatmul(f"{name}.context", "probs", "value")
        self.softmax = QuantSoftmax(name)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if attn_mask is not None or is_causal:
            raise ValueError("attention masks are not supported: image classifiers of the ViT family use none")
        batch, tokens, _ = x.shape
        gate = self.gate(x).sigmoid() if self.gate is not None else None
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        probs = self.softmax(self.scores(q, k, transpose=True) * self.scale)
        x = self.context(probs, v).transpose(1, 2).reshape(batch, tokens, self.attn_dim)
        x = self.norm(x)
        if gate is not None:
            x = x * gate
        out: Tensor = self.proj(x)
        return out


class QuantWindowAttention(nn.Module):
    """Window attention of Swin over (windows·B, N, C), with relative position bias and shift mask."""

    def __init__(self, attention: WindowAttention, name: str):
        super().__init__()
        self.num_heads, self.window_area, self.scale = attention.num_heads, attention.window_area, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        self.relative_position_bias_table = attention.relative_position_bias_table
        self.relative_position_index: Tensor
        index = attention.get_buffer("relative_position_index")
        self.register_buffer("relative_position_index", index, persistent=False)
        self.scores = QuantMatmul(f"{name}.scores", "query", "key")
        self.context = QuantMatmul(f"{name}.context", "probs", "value")
        self.softmax = QuantSoftmax(name)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = self.scores(q, k, transpose=True) * self.scale + self._position_bias()
        probs = self.softmax(scores, mask)
        out: Tensor = self.proj(self.context(probs, v).transpose(1, 2).reshape(batch, tokens, -1))
        return out

    def _position_bias(self) -> Tensor:
        """(heads, N, N)."""
        table = self.relative_position_bias_table[self.relative_position_index.reshape(-1)]
        return table.view(self.window_area, self.window_area, -1).permute(2, 0, 1).contiguous()


def quantized_attention(attention: nn.Module, name: str) -> nn.Module:
    """The quantized twin of a timm attention module."""
    if isinstance(attention, WindowAttention):
        return QuantWindowAttention(attention, name)
    if isinstance(attention, Attention):
        return QuantAttention(attention, name)
    raise TypeError(f"{name}: no quantized twin for {type(attention).__name__}")
