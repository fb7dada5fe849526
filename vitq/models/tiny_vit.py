"""Structure of timm's TinyVit: a stage of convolutions, then stages of attention in windows with a convolution in each
block."""

from __future__ import annotations

from typing import ClassVar, cast

from timm.models.tiny_vit import Attention, ConvLayer, TinyVit, TinyVitBlock, TinyVitStage
from torch import Tensor, nn

from vitq.models.levit import LevitAttention
from vitq.models.structure import Segment, Structure, layers_below, register_family, unsupported


class TinyAttention(LevitAttention):
    """LeViT's over the tokens of a window (windows·B, N, C), with its norm in front of `qkv`."""

    shared: ClassVar[tuple[str, ...]] = (
        *("norm", "qkv", "proj", "attention_biases", "attention_bias_idxs"),
        *("key_dim", "val_dim", "resolution"),
    )
    norm: nn.Module
    use_conv = False

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return super()._parts(self.norm(x))


@register_family("tiny_vit", TinyVit, TinyAttention)
def tiny_vit_structure(model: nn.Module) -> Structure:
    """Structure of a TinyVit, whose batch norms behind layers are folded. Raises ModelError for unknown stages."""
    net = cast(TinyVit, model)
    stem = layers_below(net, "patch_embed")
    structure = Structure("tiny_vit", net, inputs=dict.fromkeys(stem, "other") | {stem[0]: "patch"}, stem=(stem[0],))
    structure.segments.append(Segment("patch_embed", net.patch_embed, ("patch_embed",), channel=1))
    for index, stage in enumerate(net.stages):
        name = f"stages.{index}"
        if not isinstance(stage, ConvLayer | TinyVitStage):
            raise unsupported(net, name, f"of type {type(stage).__name__}", "timm's ConvLayer, TinyVitStage")
        structure.inputs.update(dict.fromkeys(layers_below(net, name), "other"))
        rows = isinstance(stage, TinyVitStage)  # blocks over (B, H, W, C), stages over (B, C, H, W)
        if isinstance(stage, TinyVitStage) and not isinstance(stage.downsample, nn.Identity):
            structure.segments.append(
                Segment(f"{name}.downsample", stage.downsample, (f"{name}.downsample",), channel=1)
            )
        for position, block in enumerate(stage.blocks):
            inner = f"{name}.blocks.{position}"
            if isinstance(block, TinyVitBlock) and type(block.attn) is Attention:
                _attention(structure, inner, block)
            forward = _Rows(block) if rows else block
            structure.segments.append(Segment(inner, forward, (inner,), channel=1))
    structure.end(net.forward_head, "head")
    return structure


class _Rows(nn.Module):
    """A block over (B, H, W, C) as one over (B, C, H, W)."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out


def _attention(structure: Structure, name: str, block: TinyVitBlock) -> None:
    structure.attentions.append(f"{name}.attn")
    structure.inputs[f"{name}.attn.proj"] = "attn_out"
    if isinstance(block.mlp.act, nn.GELU):
        structure.inputs[f"{name}.mlp.fc2"] = "post_gelu"
    for norm, layer in ((f"{name}.attn.norm", f"{name}.attn.qkv"), (f"{name}.mlp.norm", f"{name}.mlp.fc1")):
        structure.link(norm, layer)
