"""Structure of every supported variant: with all quantizers off the engine computes what timm computes."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from tests.errors import refuses
from vitq.config import KINDS
from vitq.errors import ModelError
from vitq.models.attention import AttentionTwin
from vitq.quant.layers import QuantMatmul
from vitq.quant.model import QuantizedModel

SMALL: dict[str, Any] = {"depth": 2, "img_size": 32, "patch_size": 8, "num_classes": 7}
SWIN: dict[str, Any] = {"depths": (2, 2), "num_heads": (2, 4), "embed_dim": 16, "num_classes": 7}

# timm name, kwargs: one row for each variant of a family.
VARIANTS = [
    ("vit_tiny_patch16_224", SMALL),
    ("vit_small_patch16_224", {**SMALL, "class_token": False, "global_pool": "avg"}),
    ("vit_base_patch16_224", {"depth": 2, "num_classes": 7}),
    ("deit_tiny_patch16_224", SMALL),
    ("deit_tiny_distilled_patch16_224", SMALL),
    ("deit3_small_patch16_224", SMALL),
    ("vit_small_patch14_reg4_dinov2", {**SMALL, "num_classes": 5}),
    ("vit_medium_patch16_gap_256", SMALL),
    ("vit_base_patch16_clip_224", {**SMALL, "num_classes": 7}),
    ("vit_tiny_patch16_224", {**SMALL, "qk_norm": True}),
    ("vit_tiny_patch16_224", {**SMALL, "init_values": 0.1}),
    ("vit_tiny_patch16_224", {**SMALL, "reg_tokens": 4, "qkv_bias": False}),
    ("vit_tiny_patch16_224", {**SMALL, "scale_attn_norm": True, "scale_mlp_norm": True}),
    ("swin_tiny_patch4_window7_224", {**SWIN, "img_size": 56}),
    ("swin_tiny_patch4_window7_224", {**SWIN, "img_size": 64, "window_size": 4}),
    ("swin_s3_tiny_224", {"num_classes": 7, "depths": (1, 1, 2, 1)}),
    ("swin_base_patch4_window12_384", {**SWIN, "img_size": 96, "window_size": 6}),
]


def variant(name: str, kwargs: dict[str, Any]) -> nn.Module:
    """The timm model with random weights, biases and norms (timm's zeros and ones would hide mistakes)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False, **kwargs).eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


def images(model: nn.Module, count: int = 2) -> torch.Tensor:
    size = model.patch_embed.img_size  # type: ignore[union-attr]
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))  # type: ignore[misc]


@pytest.mark.parametrize(("name", "kwargs"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "")
@torch.no_grad()
def test_all_quantizers_off_equals_timm(name: str, kwargs: dict[str, Any]) -> None:
    model = variant(name, kwargs)
    x = images(model)
    expected = model(x)
    quantized = QuantizedModel(model)
    assert (quantized(x) - expected).abs().max() <= 1e-5
    chained = x
    for segment in quantized.structure.segments:
        chained = segment.forward(chained)
    assert (chained - expected).abs().max() <= 1e-5, "the chain of segments is the model"


@pytest.mark.parametrize(("name", "kwargs"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "")
def test_every_weight_and_every_operand_is_a_site(name: str, kwargs: dict[str, Any]) -> None:
    quantized = QuantizedModel(variant(name, kwargs))
    sites = quantized.sites
    for module_name, module in quantized.model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert {f"{module_name}.weight", f"{module_name}.input"} <= set(sites), module_name
        if isinstance(module, AttentionTwin):
            operands = {f"{module_name}.scores.query", f"{module_name}.scores.key"}
            operands |= {f"{module_name}.context.probs", f"{module_name}.context.value"}
            assert operands <= set(sites), module_name
    assert {site.kind for site in sites.values()} <= set(KINDS)
    attentions = len(quantized.structure.attentions)
    assert attentions > 0
    assert sum(isinstance(m, QuantMatmul) for m in quantized.modules()) == 2 * attentions
    for site in sites.values():
        holders = [segment.name for segment in quantized.structure.segments if segment.holds(site.owner)]
        assert len(holders) == 1, f"{site.name} belongs to exactly one segment, found {holders}"


def test_kinds_come_from_structure() -> None:
    kinds = {name: site.kind for name, site in QuantizedModel(variant("deit_tiny_patch16_224", SMALL)).sites.items()}
    assert kinds == {
        "patch_embed.proj.weight": "weight",
        "patch_embed.proj.input": "patch",
        "head.weight": "weight",
        "head.input": "head",
    } | {
        f"blocks.{block}.{name}": kind
        for block in (0, 1)
        for name, kind in {
            "attn.qkv.weight": "weight",
            "attn.qkv.input": "post_norm",
            "attn.scores.query": "query",
            "attn.scores.key": "key",
            "attn.context.probs": "probs",
            "attn.context.value": "value",
            "attn.proj.weight": "weight",
            "attn.proj.input": "attn_out",
            "mlp.fc1.weight": "weight",
            "mlp.fc1.input": "post_norm",
            "mlp.fc2.weight": "weight",
            "mlp.fc2.input": "post_gelu",
        }.items()
    }


def test_swin_patch_merging_reads_its_norm() -> None:
    quantized = QuantizedModel(variant("swin_tiny_patch4_window7_224", {**SWIN, "img_size": 56}))
    assert quantized.sites["layers.1.downsample.reduction.input"].kind == "post_norm"
    links = {link.norm: link.consumers for link in quantized.structure.links}
    assert links["layers.1.downsample.norm"] == ("layers.1.downsample.reduction",)


def test_swin_windows_that_pad_are_marked() -> None:
    fits = QuantizedModel(variant("swin_tiny_patch4_window7_224", {**SWIN, "img_size": 64, "window_size": 4}))
    pads = QuantizedModel(variant("swin_tiny_patch4_window7_224", {**SWIN, "img_size": 64, "window_size": 6}))
    assert not any(link.padded for link in fits.structure.links)
    assert any(link.padded for link in pads.structure.links if link.norm.endswith("norm1"))
    assert not any(link.padded for link in pads.structure.links if link.norm.endswith("norm2"))


@pytest.mark.parametrize(
    ("name", "kwargs", "key", "found"),
    [
        ("resnet18", {}, "", "ResNet"),
        ("vit_tiny_patch16_224", {**SMALL, "global_pool": "prr"}, "pooling", "AttentionPoolPrr"),
        (
            "vit_tiny_patch16_224",
            {**SMALL, "block_fn": timm.models.vision_transformer.DiffParallelScalingBlock},
            "blocks.0",
            "of type DiffParallelScalingBlock",
        ),
    ],
)
def test_an_unsupported_model_says_where_to_add_it(name: str, kwargs: dict[str, Any], key: str, found: str) -> None:
    with refuses(ModelError, key=key, value=found):
        QuantizedModel(timm.create_model(name, pretrained=False, **kwargs))
