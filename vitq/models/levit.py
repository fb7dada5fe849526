"""Structure of timm's Levit: convolutions or linear layers with batch norms, attention whose values are wider than its
keys, and that pools between stages."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from timm.models.levit import Attention, AttentionDownsample, Levit, LevitBlock, LevitDownsample
from torch import Tensor, nn

from vitq.models.attention import AttentionTwin
from vitq.models.structure import Segment, Structure, layers_below, register_family, unsupported


class LevitAttention(AttentionTwin):
    """Self-attention over tokens (B, N, C) or maps (B, C, H, W), with a bias for every distance."""

    joint: ClassVar[bool] = False
    shared: ClassVar[tuple[str, ...]] = (
        *("qkv", "proj", "attention_biases", "attention_bias_idxs"),
        *("key_dim", "val_dim", "use_conv", "resolution"),
    )
    attention_biases: nn.Parameter
    attention_bias_idxs: Tensor
    key_dim: int
    val_dim: int
    use_conv: bool
    resolution: tuple[int, int]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        heads = self.attend(*self._parts(x), self.bias()).transpose(1, 2).flatten(2)
        if self.use_conv:
            heads = heads.transpose(1, 2).unflatten(2, self._grid())
        out: Tensor = self.proj(heads)
        return out

    def bias(self) -> Tensor:
        return self.attention_biases[:, self.attention_bias_idxs]

    def learnable(self) -> list[nn.Parameter]:
        return [self.attention_biases]

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value, (B, heads, N, …) each."""
        parts: tuple[Tensor, ...] = self._heads(self.qkv(x)).split([self.key_dim, self.key_dim, self.val_dim], dim=3)
        return parts

    def _heads(self, made: Tensor) -> Tensor:
        tokens = made.flatten(2).transpose(1, 2) if self.use_conv else made
        heads: Tensor = tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return heads

    def _grid(self) -> tuple[int, int]:
        """Rows and columns of what it gives."""
        return self.resolution


class PoolingAttention(LevitAttention):
    """Queries of every second row and column alone."""

    shared = ("q", "kv", "stride", *(part for part in LevitAttention.shared if part != "qkv"))
    q: nn.Module
    kv: nn.Module
    stride: int

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return self._heads(self.q(x)), *self._heads(self.kv(x)).split([self.key_dim, self.val_dim], dim=3)

    def _grid(self) -> tuple[int, int]:
        height, width = ((side - 1) // self.stride + 1 for side in self.resolution)
        return height, width


@register_family("levit", Levit, LevitAttention)
def levit_structure(model: nn.Module) -> Structure:
    """Structure of a Levit, whose batch norms behind layers are folded. Raises ModelError for unknown blocks."""
    levit = cast(Levit, model)
    stem = layers_below(levit, "stem")
    structure = Structure("levit", levit, inputs=dict.fromkeys(stem, "other") | {stem[0]: "patch"}, stem=(stem[0],))
    structure.segments.append(Segment("stem", lambda x: _stem(levit, x), ("stem",), channel=_channel(levit)))
    for index, stage in enumerate(levit.stages):
        name = f"stages.{index}"
        if not isinstance(stage.downsample, nn.Identity):
            _block(structure, f"{name}.downsample", cast(nn.Module, stage.downsample), "attn_downsample")
        for position, block in enumerate(cast(nn.Sequential, stage.blocks)):
            _block(structure, f"{name}.blocks.{position}", block, "attn")
    heads = ("head", "head_dist") if hasattr(levit, "head_dist") else ("head",)
    structure.end(levit.forward_head, *heads, layers=(layer for head in heads for layer in layers_below(levit, head)))
    return structure


def _stem(levit: Levit, x: Tensor) -> Tensor:
    x = levit.stem(x)
    return x if levit.use_conv else x.flatten(2).transpose(1, 2)


def _channel(levit: Levit) -> int:
    return 1 if levit.use_conv else -1


def _block(structure: Structure, name: str, block: nn.Module, attention: str) -> None:
    levit, inner = structure.model, f"{name}.{attention}"
    module = getattr(block, attention, None)
    if type(block) not in (LevitBlock, LevitDownsample) or type(module) not in (Attention, AttentionDownsample):
        raise unsupported(levit, name, f"of type {type(block).__name__}", "timm's LevitBlock, LevitDownsample")
    structure.inputs.update(dict.fromkeys(layers_below(levit, name), "other"))
    structure.attentions.append(inner)
    if isinstance(module, AttentionDownsample):
        structure.twins[inner] = PoolingAttention
    structure.segments.append(Segment(name, block, (name,), channel=_channel(cast(Levit, levit))))
