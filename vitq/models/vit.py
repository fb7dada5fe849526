"""Structure of timm's VisionTransformer: ViT, DeiT (also distilled), registers, qk-norm, layer scale, gated MLP."""

from __future__ import annotations

from typing import cast

from timm.layers import Mlp
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from vitq.models.attention import AttentionTwin
from vitq.models.rotatable import Heads, Reader, ResidualStream, Rotatable, Writer, obstacle
from vitq.models.structure import (
    Link,
    Segment,
    Structure,
    foldable,
    layers_below,
    register_family,
    unsupported,
)


class GlobalAttention(AttentionTwin):
    """Self-attention over all tokens; where timm has them, norms of query, key and the joined heads, and a gate."""

    shared = ("q_norm", "k_norm", "norm", "gate")
    q_norm: nn.Module
    k_norm: nn.Module
    norm: nn.Module
    gate: nn.Module | None

    def mask(self, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor | None:
        if attn_mask is not None or is_causal:
            raise ValueError("attention masks are not supported: image classifiers of the ViT family use none")
        return None

    def before_scores(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return self.q_norm(query), self.k_norm(key)

    def before_proj(self, out: Tensor, x: Tensor) -> Tensor:
        out = self.norm(out)
        return out if self.gate is None else out * self.gate(x).sigmoid()

    @property
    def bare_scores(self) -> bool:
        return isinstance(self.q_norm, nn.Identity) and isinstance(self.k_norm, nn.Identity)

    @property
    def bare_proj(self) -> bool:
        return self.gate is None and isinstance(self.norm, nn.Identity)


@register_family("vit", VisionTransformer, GlobalAttention)
def vit_structure(model: nn.Module) -> Structure:
    """Structure of a VisionTransformer. Raises ModelError for blocks, stems or pools that the engine does not know."""
    vit = cast(VisionTransformer, model)
    if not isinstance(getattr(vit.patch_embed, "proj", None), nn.Conv2d) or hasattr(vit.patch_embed, "backbone"):
        raise unsupported(vit, "patch embedding", type(vit.patch_embed).__name__, "one convolution (no hybrid stem)")
    if vit.attn_pool is not None:
        raise unsupported(vit, "pooling", "attention pooling", "token, avg, avgmax, max")
    structure = Structure("vit", vit, inputs={"patch_embed.proj": "patch"}, stem=("patch_embed.proj",))
    structure.segments.append(Segment("patch_embed", lambda x: _stem(vit, x), ("patch_embed", "norm_pre")))
    for index, block in enumerate(vit.blocks):
        name = f"blocks.{index}"
        _block(vit, structure, name, block)
        structure.segments.append(Segment(name, block, (name,)))
    structure.head = tuple(part for part in ("head", "head_dist") if isinstance(getattr(vit, part, None), nn.Linear))
    structure.inputs.update(dict.fromkeys(structure.head, "head"))
    structure.segments.append(Segment("head", lambda x: _tail(vit, x), ("norm", "fc_norm", *structure.head)))
    structure.rotatable = _rotatable(vit, structure)
    return structure


def _block(vit: VisionTransformer, structure: Structure, name: str, block: nn.Module) -> None:
    if type(block) is not Block:
        raise unsupported(vit, name, f"of type {type(block).__name__}", "timm's Block (pre-norm)")
    attention = block.attn
    if type(attention) is not Attention:
        raise unsupported(vit, f"{name}.attn", f"of type {type(attention).__name__}", "timm's Attention")
    structure.attentions.append(f"{name}.attn")
    inputs = dict.fromkeys(layers_below(vit, name), "other")
    readers = [f"{name}.attn.qkv"] + ([f"{name}.attn.gate"] if attention.gate is not None else [])
    _link(vit, structure, inputs, f"{name}.norm1", readers)
    inputs[f"{name}.attn.proj"] = "attn_out"
    if attention.gate is None:
        _link(vit, structure, inputs, f"{name}.attn.norm", [f"{name}.attn.proj"])
    first = [layer for layer in inputs if layer.startswith(f"{name}.mlp.fc1")]  # gated MLPs split fc1 in two
    _link(vit, structure, inputs, f"{name}.norm2", first)
    # A gated MLP multiplies the activation's output, so that fc2 reads something else.
    if type(block.mlp) is Mlp and isinstance(block.mlp.act, nn.GELU):
        inputs[f"{name}.mlp.fc2"] = "post_gelu"
    if f"{name}.mlp.fc2" in inputs:
        _link(vit, structure, inputs, f"{name}.mlp.norm", [f"{name}.mlp.fc2"])
    structure.inputs.update(inputs)


def _link(vit: VisionTransformer, structure: Structure, inputs: dict[str, str], norm: str, readers: list[str]) -> None:
    """Record that `readers` read the output of `norm`, where that norm exists."""
    try:
        module = vit.get_submodule(norm)
    except AttributeError:
        return
    if isinstance(module, nn.Identity):
        return
    for reader in readers:
        inputs[reader] = "post_norm"
    if foldable(module):
        structure.links.append(Link(norm, tuple(readers)))


def _stem(vit: VisionTransformer, x: Tensor) -> Tensor:
    out: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))
    return out


def _tail(vit: VisionTransformer, x: Tensor) -> Tensor:
    return vit.forward_head(vit.norm(x))


def _rotatable(vit: VisionTransformer, structure: Structure) -> Rotatable:
    """One stream from the patch embedding to the head, and the heads of every block."""
    norms = {name: module for name, module in vit.named_modules() if name.endswith(("norm", "norm1", "norm2"))}
    final = next((name for name in ("norm", "fc_norm") if not isinstance(norms[name], nn.Identity)), None)
    fixed = next(
        (
            reason
            for name, norm in norms.items()
            if ".attn." not in name and ".mlp." not in name and (reason := obstacle(name, norm))
        ),
        "",
    )
    if not isinstance(vit.norm_pre, nn.Identity):
        fixed = "norm_pre writes its channel-wise weights to the stream"
    elif not isinstance(vit.patch_embed.norm, nn.Identity):
        fixed = "patch_embed.norm writes its channel-wise weights to the stream"
    elif "max" in vit.global_pool:
        fixed = f"global_pool={vit.global_pool} takes the largest value of each channel"
    writers, readers, heads = [Writer("patch_embed.proj")], [Reader(final, structure.head)], []
    for index, module in enumerate(vit.blocks):
        name, block = f"blocks.{index}", cast(Block, module)
        attention = cast(Attention, block.attn)
        gate = (f"{name}.attn.gate",) if attention.gate is not None else ()
        first = tuple(layer for layer in structure.inputs if layer.startswith(f"{name}.mlp.fc1"))
        if f"{name}.mlp.fc2" not in structure.inputs or not first:
            fixed = f"{name}.mlp is a {type(block.mlp).__name__}, which has no fc1 or no fc2"
        readers += [Reader(f"{name}.norm1", (f"{name}.attn.qkv", *gate)), Reader(f"{name}.norm2", first)]
        for layer, scale in (("attn.proj", "ls1"), ("mlp.fc2", "ls2")):
            scaled = not isinstance(getattr(block, scale), nn.Identity)
            writers.append(Writer(f"{name}.{layer}", f"{name}.{scale}" if scaled else None))
        qk = "" if isinstance(attention.q_norm, nn.Identity) else f"{name}.attn.q_norm stands between"
        vo = "" if isinstance(attention.norm, nn.Identity) else f"{name}.attn.norm stands between"
        vo = f"{name}.attn.gate multiplies channels" if gate else vo
        heads.append(Heads(f"{name}.attn.qkv", f"{name}.attn.proj", attention.num_heads, attention.head_dim, qk, vo))
    tokens = ("cls_token", "dist_token", "reg_token", "pos_embed")
    tensors = tuple(name for name in tokens if getattr(vit, name, None) is not None)
    stream = ResidualStream("blocks", vit.embed_dim, tuple(writers), tensors, tuple(readers), fixed)
    return Rotatable((stream,), tuple(heads))
