"""Structure of timm's Hiera: attention within units of tokens, then over all; queries are pooled between stages."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from timm.layers import ClNormMlpClassifierHead
from timm.models.hiera import Hiera, HieraBlock
from torch import Tensor, nn

from vitq.models.attention import AttentionTwin, Parts
from vitq.models.rotatable import Heads, ResidualStream, Rotatable
from vitq.models.structure import Segment, Structure, register_family, unsupported


class UnitAttention(AttentionTwin):
    """Attention within mask units of tokens (B, N, C) in timm's unrolled order, or over all of them.

    Of `q_stride` queries in a row of that order the largest value of each channel is kept.
    """

    joint: ClassVar[bool] = False
    shared = ("qkv", "proj", "q_stride", "window_size", "use_mask_unit_attn")
    q_stride: int
    window_size: int
    use_mask_unit_attn: bool

    def __init__(self, attention: nn.Module, name: str, parts: Parts):
        attention.num_heads = attention.heads
        super().__init__(attention, name, parts)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        units = x.shape[1] // (self.q_stride * self.window_size) if self.use_mask_unit_attn else 1
        made = self.qkv(x).unflatten(1, (-1, units)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = made.permute(3, 0, 2, 4, 1, 5).flatten(1, 2).unbind(0)  # (B·units, heads, N, d) each
        if self.q_stride > 1:
            query = query.unflatten(2, (self.q_stride, -1)).amax(2)
        heads = self.attend(query, key, value, None).unflatten(0, (-1, units))
        out: Tensor = self.proj(heads.permute(0, 3, 1, 2, 4).flatten(3).flatten(1, 2))
        return out


@register_family("hiera", Hiera, UnitAttention)
def hiera_structure(model: nn.Module) -> Structure:
    """Structure of a Hiera. Raises ModelError for blocks and heads that the engine does not know."""
    hiera = cast(Hiera, model)
    structure = Structure("hiera", hiera, inputs={"patch_embed.proj": "patch"}, stem=("patch_embed.proj",))
    forward = lambda x: hiera.unroll(hiera._pos_embed(hiera.patch_embed(x)))  # noqa: E731
    structure.segments.append(Segment("patch_embed", forward, ("patch_embed",)))
    heads = []
    for index, block in enumerate(hiera.blocks):
        name = f"blocks.{index}"
        if type(block) is not HieraBlock:
            raise unsupported(hiera, name, f"of type {type(block).__name__}", "timm's HieraBlock")
        structure.attentions.append(f"{name}.attn")
        readers = [f"{name}.attn.qkv"] + ([] if block.proj is None else [f"{name}.proj"])
        structure.link(f"{name}.norm1", *readers)
        structure.link(f"{name}.norm2", f"{name}.mlp.fc1")
        structure.inputs[f"{name}.attn.proj"] = "attn_out"
        structure.inputs[f"{name}.mlp.fc2"] = "post_gelu" if isinstance(block.mlp.act, nn.GELU) else "other"
        structure.segments.append(Segment(name, block, (name,)))
        attention = block.attn
        pooled = "" if attention.q_stride == 1 else f"{name}.attn keeps the largest of several queries in each channel"
        heads.append(Heads(f"{name}.attn.qkv", f"{name}.attn.proj", attention.heads, attention.head_dim, pooled))
    _head(hiera, structure)
    fixed = "the stream is pooled between stages by the largest value of each channel"
    width = cast(int, hiera.blocks[0].dim)
    structure.rotatable = Rotatable((ResidualStream("blocks", width, (), (), (), fixed),), tuple(heads))
    return structure


def _head(hiera: Hiera, structure: Structure) -> None:
    if type(hiera.head) is not ClNormMlpClassifierHead:
        raise unsupported(hiera, "head", f"of type {type(hiera.head).__name__}", "timm's ClNormMlpClassifierHead")
    structure.end(hiera.forward_head, "head")
