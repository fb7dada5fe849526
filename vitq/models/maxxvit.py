"""Structure of timm's MaxxVit: CoAtNet, MaxViT and their relatives, convolutions and attention by turns."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from timm.layers import RelPosBias, RelPosBiasTf
from timm.models.maxxvit import AttentionCl, MaxxVit, ParallelPartitionAttention, PartitionAttentionCl
from torch import Tensor, nn

from vitq.models.attention import Parts
from vitq.models.structure import Segment, Structure, layers_below, register_family
from vitq.models.vit_relpos import RelativeAttention


class MapAttention(RelativeAttention):
    """Self-attention over all pixels of a map (B, C, H, W), or of windows (windows·B, H, W, C), with relative position
    bias. The bias does not depend on the image: where an MLP makes it, this is no site."""

    joint: ClassVar[bool] = False
    shared = ("qkv", "proj", "rel_pos", "head_first")
    head_first: bool

    def __init__(self, attention: nn.Module, name: str, parts: Parts):
        super().__init__(attention, name, parts)
        self.channels_first = isinstance(attention.qkv, nn.Conv2d)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        made = self.qkv(x)
        made = made.flatten(2).transpose(1, 2) if self.channels_first else made.flatten(1, -2)
        if self.head_first:
            parts = made.unflatten(-1, (self.num_heads, -1)).transpose(1, 2).chunk(3, dim=3)
        else:
            parts = made.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        query, key, value = parts
        heads = self.attend(query, key, value, self.bias(), *args, **kwargs).transpose(1, 2).flatten(2)
        if self.channels_first:
            heads = heads.transpose(1, 2).unflatten(2, x.shape[2:])
        else:
            heads = heads.unflatten(1, x.shape[1:-1])
        out: Tensor = self.proj(heads)
        return out

    def bias(self) -> Tensor | None:
        if self.rel_pos is None:
            return None
        bias: Tensor = self.rel_pos.get_bias()  # type: ignore[operator]
        return bias[0] if bias.ndim == 4 else bias

    def learnable(self) -> list[nn.Parameter]:
        tables = isinstance(self.rel_pos, RelPosBias | RelPosBiasTf)
        return [cast(nn.Module, self.rel_pos).relative_position_bias_table] if tables else []  # type: ignore[list-item]


@register_family("maxxvit", MaxxVit, MapAttention)
def maxxvit_structure(model: nn.Module) -> Structure:
    """Structure of a MaxxVit. Norms of maps, and those that pooling follows, are no links."""
    net = cast(MaxxVit, model)
    convolution = layers_below(net, "stem")
    structure = Structure("maxxvit", net, inputs=dict.fromkeys(convolution, "other"), stem=(convolution[0],))
    structure.inputs[convolution[0]] = "patch"
    structure.segments.append(Segment("stem", net.stem, ("stem",), channel=1))
    for index, stage in enumerate(net.stages):
        for position, block in enumerate(cast(nn.Sequential, stage.blocks)):
            name = f"stages.{index}.blocks.{position}"
            _block(structure, name)
            structure.segments.append(Segment(name, block, (name,), channel=1))
    structure.end(lambda x: net.forward_head(net.norm(x)), "norm", "head")
    return structure


def _block(structure: Structure, name: str) -> None:
    model = structure.model
    block = model.get_submodule(name)
    layers = [layer for layer in layers_below(model, name) if ".rel_pos." not in layer]
    structure.inputs.update(dict.fromkeys(layers, "other"))
    for inner, module in block.named_modules(prefix=name):
        if hasattr(module, "rel_pos") and hasattr(module, "qkv"):
            structure.attentions.append(inner)
            structure.inputs[f"{inner}.proj"] = "attn_out"
        if isinstance(module, PartitionAttentionCl | ParallelPartitionAttention):
            attentions = [
                f"{inner}.{child}" for child, part in module.named_children() if isinstance(part, AttentionCl)
            ]
            structure.link(f"{inner}.norm1", *(f"{attention}.qkv" for attention in attentions))
            structure.link(f"{inner}.norm2", f"{inner}.mlp.fc1")
            if isinstance(module.mlp.act, nn.GELU):
                structure.inputs[f"{inner}.mlp.fc2"] = "post_gelu"
