"""Structure of timm's SwinTransformer: shifted windows, relative position bias, patch merging."""

from __future__ import annotations

from typing import cast

from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock, SwinTransformerStage
from torch import Tensor, nn

from vitq.models.attention import AttentionTwin, Parts
from vitq.models.pad_first import PadFirstBlock
from vitq.models.rotatable import Heads, Reader, ResidualStream, Rotatable, Writer, obstacle
from vitq.models.structure import (
    Segment,
    Structure,
    layers_below,
    register_family,
    unsupported,
)


class WindowedAttention(AttentionTwin):
    """Attention within windows (windows·B, N, C), with relative position bias and the mask of shifted windows."""

    shared = ("relative_position_bias_table",)
    relative_position_bias_table: nn.Parameter
    relative_position_index: Tensor

    def __init__(self, attention: nn.Module, name: str, parts: Parts):
        super().__init__(attention, name, parts)
        self.window_area = cast(int, attention.window_area)
        index = attention.get_buffer("relative_position_index")
        self.register_buffer("relative_position_index", index, persistent=False)

    def mask(self, mask: Tensor | None = None) -> Tensor | None:
        return mask

    def bias(self) -> Tensor:
        table = self.relative_position_bias_table[self.relative_position_index.reshape(-1)]
        return table.view(self.window_area, self.window_area, -1).permute(2, 0, 1).contiguous()

    def learnable(self) -> list[nn.Parameter]:
        return [self.relative_position_bias_table]


@register_family("swin", SwinTransformer, WindowedAttention)
def swin_structure(model: nn.Module) -> Structure:
    """Structure of a SwinTransformer. Raises ModelError for blocks, stems or merging that the engine does not know."""
    swin = cast(SwinTransformer, model)
    if not isinstance(getattr(swin.patch_embed, "proj", None), nn.Conv2d):
        raise unsupported(swin, "patch embedding", type(swin.patch_embed).__name__, "one convolution")
    structure = Structure("swin", swin, inputs={"patch_embed.proj": "patch"}, stem=("patch_embed.proj",))
    structure.segments.append(Segment("patch_embed", swin.patch_embed, ("patch_embed",)))
    for index, layer in enumerate(swin.layers):
        name, stage = f"layers.{index}", cast(SwinTransformerStage, layer)
        if isinstance(stage.downsample, PatchMerging):
            _merging(structure, f"{name}.downsample", stage.downsample)
        elif not isinstance(stage.downsample, nn.Identity):
            raise unsupported(swin, f"{name}.downsample", type(stage.downsample).__name__, "PatchMerging")
        for position, block in enumerate(stage.blocks):
            _block(swin, structure, f"{name}.blocks.{position}", block)
    structure.end(lambda x: swin.forward_head(swin.norm(x)), "norm", "head")
    structure.rotatable = _rotatable(swin, structure)
    return structure


def _merging(structure: Structure, name: str, merging: PatchMerging) -> None:
    structure.link(f"{name}.norm", f"{name}.reduction")
    structure.segments.append(Segment(name, merging, (name,)))


def _block(swin: SwinTransformer, structure: Structure, name: str, block: nn.Module) -> None:
    if not isinstance(block, SwinTransformerBlock) or type(block) not in (SwinTransformerBlock, PadFirstBlock):
        raise unsupported(swin, name, f"of type {type(block).__name__}", "timm's SwinTransformerBlock")
    inputs = dict.fromkeys(layers_below(swin, name), "other")
    inputs[f"{name}.attn.proj"] = "attn_out"
    inputs[f"{name}.mlp.fc2"] = "post_gelu" if isinstance(block.mlp.act, nn.GELU) else "other"
    structure.inputs.update(inputs)
    structure.attentions.append(f"{name}.attn")
    # timm pads the norm's output with zeros where windows do not divide the feature map. A model that accepts other
    # image sizes (`dynamic_mask`) may pad at some sizes.
    resolution = cast(tuple[int, int], block.input_resolution)
    padded = block.dynamic_mask or any(
        size % window for size, window in zip(resolution, block.window_size, strict=True)
    )
    structure.link(f"{name}.norm1", f"{name}.attn.qkv", padded=padded)
    structure.link(f"{name}.norm2", f"{name}.mlp.fc1")
    structure.segments.append(Segment(name, block, (name,)))


# Why the last stage's stream cannot be turned; not in a detector, whose pyramid reads it.
HEADLESS = "the network has no head, so that its output is the stream itself"


def _rotatable(swin: SwinTransformer, structure: Structure) -> Rotatable:
    """One stream for each stage, which the next stage's patch merging reads, and the heads of every block."""
    padded = {link.norm for link in structure.links if link.padded}
    streams, heads = [], []
    for index, layer in enumerate(swin.layers):
        stage = cast(SwinTransformerStage, layer)
        name, last = f"layers.{index}", index == len(swin.layers) - 1
        merging, following = f"{name}.downsample", f"layers.{index + 1}.downsample"
        fixed = (
            obstacle(f"layers.{index}.norm", swin.norm)
            if last
            else obstacle(following, swin.get_submodule(f"{following}.norm"))
        )
        if index == 0 and not isinstance(swin.patch_embed.norm, nn.Identity):
            fixed = "patch_embed.norm writes its channel-wise weights to the stream"
        elif last and swin.global_pool != "avg":
            fixed = f"global_pool={swin.global_pool} does not average tokens"
        writers = [Writer(f"{merging}.reduction" if index else "patch_embed.proj")]
        readers = [
            Reader("norm", structure.head) if last else Reader(f"{following}.norm", (f"{following}.reduction",), 4)
        ]
        blocks = [cast(SwinTransformerBlock, block) for block in stage.blocks]
        for position, block in enumerate(blocks):
            inner = f"{name}.blocks.{position}"
            fixed = fixed or obstacle(f"{inner}.norm1", block.norm1) or obstacle(f"{inner}.norm2", block.norm2)
            writers += [Writer(f"{inner}.attn.proj"), Writer(f"{inner}.mlp.fc2")]
            readers.append(Reader(f"{inner}.norm1", (f"{inner}.attn.qkv",), padded=f"{inner}.norm1" in padded))
            readers.append(Reader(f"{inner}.norm2", (f"{inner}.mlp.fc1",)))
            count = block.attn.num_heads
            size = block.attn.qkv.out_features // (3 * count)
            heads.append(Heads(f"{inner}.attn.qkv", f"{inner}.attn.proj", count, size))
        if last and not structure.head:
            fixed = fixed or HEADLESS
        streams.append(ResidualStream(name, blocks[0].dim, tuple(writers), (), tuple(readers), fixed))
    return Rotatable(tuple(streams), tuple(heads))
