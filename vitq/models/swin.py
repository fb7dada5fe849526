"""Anatomy of timm's SwinTransformer: shifted windows, relative position bias, patch merging."""

from __future__ import annotations

from typing import cast

from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock, SwinTransformerStage
from torch import Tensor, nn

from vitq.models.anatomy import Anatomy, Link, Segment, foldable, layers_below, unsupported


def dissect_swin(model: nn.Module) -> Anatomy:
    """Anatomy of a SwinTransformer. Raises ModelError for blocks, stems or merging that the engine does not know."""
    swin = cast(SwinTransformer, model)
    if not isinstance(getattr(swin.patch_embed, "proj", None), nn.Conv2d):
        raise unsupported(swin, "patch embedding", type(swin.patch_embed).__name__, "one convolution")
    anatomy = Anatomy("swin", inputs={"patch_embed.proj": "patch"}, stem=("patch_embed.proj",))
    anatomy.segments.append(Segment("patch_embed", swin.patch_embed, ("patch_embed",)))
    for index, layer in enumerate(swin.layers):
        name, stage = f"layers.{index}", cast(SwinTransformerStage, layer)
        if isinstance(stage.downsample, PatchMerging):
            _merging(anatomy, f"{name}.downsample", stage.downsample)
        elif not isinstance(stage.downsample, nn.Identity):
            raise unsupported(swin, f"{name}.downsample", type(stage.downsample).__name__, "PatchMerging")
        for position, block in enumerate(stage.blocks):
            _block(swin, anatomy, f"{name}.blocks.{position}", block)
    anatomy.head = tuple(layers_below(swin, "head"))
    anatomy.inputs.update(dict.fromkeys(anatomy.head, "head"))
    anatomy.segments.append(Segment("head", lambda x: _tail(swin, x), ("norm", "head")))
    return anatomy


def _merging(anatomy: Anatomy, name: str, merging: PatchMerging) -> None:
    anatomy.inputs[f"{name}.reduction"] = "post_norm"
    if foldable(merging.norm):
        anatomy.links.append(Link(f"{name}.norm", (f"{name}.reduction",)))
    anatomy.segments.append(Segment(name, merging, (name,)))


def _block(swin: SwinTransformer, anatomy: Anatomy, name: str, block: nn.Module) -> None:
    if type(block) is not SwinTransformerBlock:
        raise unsupported(swin, name, f"of type {type(block).__name__}", "timm's SwinTransformerBlock")
    inputs = dict.fromkeys(layers_below(swin, name), "other")
    inputs |= {f"{name}.attn.qkv": "post_norm", f"{name}.attn.proj": "attn_out", f"{name}.mlp.fc1": "post_norm"}
    inputs[f"{name}.mlp.fc2"] = "post_gelu" if isinstance(block.mlp.act, nn.GELU) else "other"
    anatomy.inputs.update(inputs)
    anatomy.attentions.append(f"{name}.attn")
    # timm pads the norm's output with zeros where windows do not divide the feature map. A model that accepts other
    # image sizes (`dynamic_mask`) may pad at some sizes.
    resolution = cast(tuple[int, int], block.input_resolution)
    padded = block.dynamic_mask or any(
        size % window for size, window in zip(resolution, block.window_size, strict=True)
    )
    if foldable(block.norm1):
        anatomy.links.append(Link(f"{name}.norm1", (f"{name}.attn.qkv",), padded=padded))
    if foldable(block.norm2):
        anatomy.links.append(Link(f"{name}.norm2", (f"{name}.mlp.fc1",)))
    anatomy.segments.append(Segment(name, block, (name,)))


def _tail(swin: SwinTransformer, x: Tensor) -> Tensor:
    return swin.forward_head(swin.norm(x))
