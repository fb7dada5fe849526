"""One small instance of each class of networks: what every family promises."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.errors import refuses
from tests.models.test_anatomy import variant
from tests.tiny import images as calibration_images
from tests.tiny import run
from vitq.config import KINDS, RunConfig
from vitq.deploy.onnx import products as integer_products
from vitq.deploy.onnx import qdq
from vitq.deploy.onnx.integer_model import integer_form
from vitq.deploy.packed.packed import load_packed, save_packed
from vitq.models.attention import AttentionTwin
from vitq.models.structure import structure_of
from vitq.quant.model import QuantizedModel
from vitq.quant.site_table import model_bytes
from vitq.steps import Workspace
from vitq.steps.fold_norm import bias_of, fold
from vitq.steps.orthogonal import mean_preserving
from vitq.steps.rotate import Edit, rotate_heads, rotate_stream

SMALL: dict[str, Any] = {
    "depth": 2,
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "num_heads": 3,
    "num_classes": 7,
}
SWIN: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 2,
    "window_size": 4,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "embed_dim": 16,
    "num_classes": 7,
}
MAXXVIT: dict[str, Any] = {
    "img_size": 32,
    "embed_dim": (16, 32),
    "depths": (1, 2),
    "block_type": ("C", "M"),
    "stem_width": 8,
    "transformer_dim_head": 8,
    "transformer_window_size": (2, 2),
    "num_classes": 7,
}
COATNET: dict[str, Any] = {**MAXXVIT, "block_type": ("C", "T")}
PIT: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "stride": 4,
    "base_dims": [8, 8, 8],
    "depth": [1, 1, 1],
    "heads": [2, 2, 4],
    "num_classes": 7,
}
LEVIT: dict[str, Any] = {
    "img_size": 32,
    "embed_dim": (32, 48),
    "key_dim": 8,
    "num_heads": (2, 3),
    "depth": (1, 1),
    "stem_type": "s8",
    "num_classes": 7,
}
TINY: dict[str, Any] = {
    "embed_dims": (16, 32, 48),
    "depths": (1, 1, 1),
    "num_heads": (1, 2, 3),
    "window_sizes": (4, 3, 2),
    "num_classes": 7,
}
DAVIT: dict[str, Any] = {
    "depths": (1, 1),
    "embed_dims": (16, 32),
    "num_heads": (2, 4),
    "window_size": 3,
    "num_classes": 7,
}
TNT: dict[str, Any] = {
    "depth": 2,
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "inner_dim": 16,
    "num_heads_inner": 2,
    "num_heads_outer": 3,
    "num_classes": 7,
}
HIERA: dict[str, Any] = {
    "img_size": 32,
    "embed_dim": 16,
    "stages": (1, 2, 1),
    "q_pool": 2,
    "mask_unit_size": (4, 4),
    "mask_unit_attn": (True, True, False),
    "num_classes": 7,
}
HYBRID: dict[str, Any] = {key: value for key, value in SMALL.items() if key != "patch_size"}
NOTHING = (False, False, False)
# timm name, kwargs, whether norms can be folded, and which parts can be rotated: stream, heads' query and key, value.
CASES: dict[str, tuple[str, dict[str, Any], bool, tuple[bool, bool, bool]]] = {
    "eva": ("eva_giant_patch14_224", SMALL, True, (True, True, True)),
    "eva02": ("eva02_tiny_patch14_224", SMALL, True, (True, False, True)),
    "eva02_sub_ln": ("eva02_large_patch14_224", {**SMALL, "scale_attn_inner": True}, True, (True, False, False)),
    "rope_mixed": ("vit_small_patch16_rope_mixed_224", SMALL, True, (True, False, True)),
    "eva02_post_norm": ("eva02_enormous_patch14_clip_224", SMALL, False, (False, True, True)),
    "dinov3": ("vit_small_patch16_dinov3", SMALL, True, (True, False, True)),
    "pe_core": ("vit_pe_core_tiny_patch16_384", SMALL, True, (False, False, True)),
    "vit_parallel_scaling": (
        "vit_base_patch16_xp_224",
        {**SMALL, "init_values": 0.1, "pre_norm": False},
        True,
        (True, False, False),
    ),
    "vit_parallel_things": (
        "vit_base_patch16_18x2_224",
        {**SMALL, "init_values": 0.1},
        True,
        (True, True, True),
    ),
    "vit_res_post": ("vit_base_patch16_rpn_224", SMALL, False, (False, True, True)),
    "siglip": ("vit_base_patch16_siglip_224", SMALL, True, (True, True, True)),
    "test_vit3": ("test_vit3", {"num_classes": 7, "img_size": 32, "patch_size": 8}, True, (True, True, True)),
    "beit": ("beit_base_patch16_224", SMALL, True, (True, True, True)),
    "beitv2": (
        "beitv2_base_patch16_224",
        {**SMALL, "init_values": 0.1, "use_shared_rel_pos_bias": True},
        True,
        (True, True, True),
    ),
    "swin_v2": ("swinv2_tiny_window8_256", SWIN, False, (False, True, True)),
    "swin_v2_cr": ("swinv2_cr_tiny_ns_224", SWIN, True, (False, True, True)),
    "vit_relpos": ("vit_relpos_small_patch16_224", SMALL, True, (True, True, True)),
    "vit_relpos_cls": ("vit_relpos_base_patch16_cls_224", SMALL, True, (True, True, True)),
    "vit_srelpos": ("vit_srelpos_small_patch16_224", SMALL, True, (True, True, True)),
    "vit_relpos_post": ("vit_relpos_base_patch32_plus_rpn_256", SMALL, False, (False, True, True)),
    "hybrid": ("vit_tiny_r_s16_p8_224", HYBRID, True, (True, True, True)),
    "vitamin": ("vitamin_small_224", {"depth": 1, "img_size": 32, "num_classes": 7}, True, (False, True, True)),
    "cait": ("cait_xxs24_224", {**SMALL, "init_values": 0.1}, True, (True, True, True)),
    "xcit": ("xcit_nano_12_p8_224", {**SMALL, "eta": 0.1}, True, NOTHING),
    "pit": ("pit_ti_224", PIT, True, (False, True, True)),
    "pit_distilled": ("pit_ti_distilled_224", PIT, True, (False, True, True)),
    "levit": ("levit_128s", LEVIT, False, NOTHING),
    "levit_conv": ("levit_conv_256d", LEVIT, False, NOTHING),
    "tiny_vit": ("tiny_vit_5m_224", TINY, True, NOTHING),
    "davit": ("davit_tiny", DAVIT, True, NOTHING),
    "davit_fl": ("davit_base_fl", DAVIT, True, NOTHING),
    "tnt": ("tnt_s_patch16_224", TNT, True, NOTHING),
    "tnt_legacy": ("tnt_s_legacy_patch16_224", TNT, True, NOTHING),
    "hiera": ("hiera_tiny_224", HIERA, True, (False, True, True)),
    "hiera_abswin": ("hiera_small_abswin_256", {**HIERA, "global_pos_size": (4, 4)}, True, (False, True, True)),
    "maxvit": ("maxvit_tiny_rw_224", MAXXVIT, True, NOTHING),
    "maxvit_tf": ("maxvit_tiny_tf_224", MAXXVIT, True, NOTHING),
    "maxvit_parallel": ("maxvit_tiny_pm_256", {**MAXXVIT, "block_type": ("C", "PM")}, True, NOTHING),
    "maxxvit": ("maxxvit_rmlp_nano_rw_256", MAXXVIT, True, NOTHING),
    "maxxvitv2": ("maxxvitv2_nano_rw_256", MAXXVIT, True, NOTHING),
    "coatnet": ("coatnet_0_rw_224", COATNET, False, NOTHING),
    "coatnet_tf": ("coatnet_0_224", COATNET, False, NOTHING),
    "coatnet_rmlp": ("coatnet_rmlp_nano_rw_224", COATNET, False, NOTHING),
}
# Products that stay in float: what multiplies CaiT's values has a zero point.
FLOATS = {"cait": {"blocks.0.attn.context", "blocks.1.attn.context"}}
# Layers whose input is no image: they compute the bias of positions, and stay as they are.
POSITIONS = ("cpb_mlp", "meta_mlp", "rel_pos", "shared_rel_pos", "pos_embed")
RECIPE: dict[str, Any] = {
    "kinds": {
        "weight": {"quantizer": "uniform", "granularity": "channel", "symmetric": True},
        "post_norm": {"quantizer": "uniform", "granularity": "channel"},
        "default": {"quantizer": "uniform", "granularity": "tensor"},
    },
    "steps": {
        "activations": {"do": "calibrate", "sites": "activations"},
        "fold": {"do": "reparameterize"},
        "weights": {"do": "calibrate", "sites": "weights"},
    },
}
cases = pytest.mark.parametrize("case", CASES)


def network(case: str) -> nn.Module:
    name, kwargs, _, _ = CASES[case]
    return variant(name, kwargs)


def images(model: nn.Module, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@cases
@torch.no_grad()
def test_off_is_timm_and_its_segments_are_the_model(case: str) -> None:
    model = network(case)
    x = images(model)
    expected = model(x)
    assert (structure_of(copy.deepcopy(model)).model(x) - expected).abs().max() <= 1e-5
    quantized = QuantizedModel(model)
    assert (quantized(x) - expected).abs().max() <= 1e-5
    chained = x
    for segment in quantized.structure.segments:
        chained = segment.forward(chained)
    assert (chained - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (16, 64), (32, 48)])
@torch.no_grad()
def test_rotary_segments_are_the_model_for_images_of_another_size_or_refuse_them(size: tuple[int, int]) -> None:
    """8x8 patches of 32x32 images are 4x4; those of 16x64 are as many, but lie elsewhere."""
    quantized = QuantizedModel(network("dinov3"))
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    first, *others = quantized.structure.segments
    if size[0] != size[1]:
        with refuses(ValueError, key="model.kwargs.img_size", value=(size[0] // 8, size[1] // 8), valid=[(4, 4)]):
            first.forward(x)
        return
    chained = first.forward(x)
    for segment in others:
        chained = segment.forward(chained)
    assert (chained - quantized(x)).abs().max() <= 1e-5


@cases
def test_every_layer_and_every_operand_is_a_site(case: str) -> None:
    quantized = QuantizedModel(network(case))
    sites, attentions = quantized.sites, 0
    for name, module in quantized.model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not any(part in name.split(".") for part in POSITIONS):
            assert {f"{name}.weight", f"{name}.input"} <= set(sites), name
        if isinstance(module, AttentionTwin):
            attentions += 1
            operands = {f"{name}.scores.query", f"{name}.scores.key"}
            operands |= {f"{name}.context.{module.weights}", f"{name}.context.value"}
            assert operands <= set(sites), name
    assert attentions == len(quantized.structure.attentions) > 0
    kinds = {site.kind for site in sites.values()}
    assert kinds <= set(KINDS)
    assert {"weight", "query", "key", "probs", "value", "patch", "head"} <= kinds
    for site in sites.values():
        holders = [segment.name for segment in quantized.structure.segments if segment.holds(site.owner)]
        assert len(holders) == 1, f"{site.name} belongs to exactly one segment, not to {holders}"


@cases
@torch.no_grad()
def test_what_is_folded_changes_no_output(case: str) -> None:
    quantized = QuantizedModel(network(case)).double()
    links = quantized.structure.links
    assert bool(links) == CASES[case][2]
    x = images(quantized).double()
    expected, generator = quantized(x), torch.Generator().manual_seed(2)
    for link in links:
        norm = quantized.model.get_submodule(link.norm)
        layers: list[Any] = [quantized.model.get_submodule(name) for name in link.consumers]
        width = layers[0].in_features
        ratio = torch.exp(torch.randn(width, generator=generator).double())
        shift = torch.randn(width, generator=generator).double()
        fold(norm, layers, ratio, torch.zeros_like(shift) if link.padded or bias_of(norm) is None else shift)
    assert (quantized(x) - expected).abs().max() < 1e-9


@cases
@torch.no_grad()
def test_what_is_rotated_changes_no_output(case: str) -> None:
    model = network(case).double()
    x = images(model).double()
    expected = model(x)
    rotatable = structure_of(model).rotatable
    free = (
        any(not stream.fixed for stream in rotatable.streams),
        any(not head.fixed_qk for head in rotatable.heads),
        any(not head.fixed_vo for head in rotatable.heads),
    )
    assert free == CASES[case][3], [stream.fixed for stream in rotatable.streams]
    edit, generator = Edit(model), torch.Generator().manual_seed(3)
    for stream in rotatable.streams:
        if not stream.fixed:
            rotate_stream(edit, stream, mean_preserving(stream.width, generator, "random"))
    for head in rotatable.heads:
        random = [torch.linalg.qr(torch.randn(head.heads, head.size, head.size).double()).Q for _ in range(2)]
        rotate_heads(edit, head, None if head.fixed_qk else random[0], None if head.fixed_vo else random[1])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    edit.write()
    assert (model(x) - expected).abs().max() < 1e-9
    changed = any(not torch.equal(value, before.get(name, value + 1)) for name, value in model.state_dict().items())
    assert changed == any(free)


@cases
@torch.no_grad()
def test_packed_and_integer_forms_are_the_quantized_model(
    workspace: Callable[..., Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    name, kwargs, _, _ = CASES[case]
    model = network(case)
    size = model_bytes(model)
    work = workspace(model, RECIPE, images=8, weight=8, activation=8, image=8)
    plain = work.config.to_dict()
    plain["model"] |= {"name": name, "kwargs": kwargs, "pretrained": False}
    plain["data"]["num_classes"] = 7
    config, problems = RunConfig.parse(plain)
    assert config is not None, problems
    run(work, *RECIPE["steps"].values())
    x = calibration_images(work)[:4]
    expected = work.model(x)
    save_packed(work.model, config, size, tmp_path / "model.safetensors")
    packed = load_packed(tmp_path / "model.safetensors")
    assert torch.equal(packed.model(x), expected)
    integer, products = integer_form(packed.model)
    monkeypatch.setattr(qdq, "quantize", _quantized)
    for module in (qdq, integer_products):
        monkeypatch.setattr(module, "dequantize", _dequantized)
    # One float32 sum that is rounded otherwise may move a value to the next code.
    assert (integer(x) - expected).abs().max() <= 0.1 * expected.std()
    layers = set(packed.model.structure.inputs)
    matmuls = {f"{name}.{part}" for name in packed.model.structure.attentions for part in ("scores", "context")}
    assert {product.name for product in products} == layers | matmuls
    assert {product.name for product in products if product.reason is not None} == FLOATS.get(case, set())


def _quantized(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """What a runtime does at QuantizeLinear, which torch cannot run."""
    ends = torch.iinfo(zero.dtype)
    return (torch.round(x / scale) + zero).clamp(ends.min, ends.max)


def _dequantized(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, axis: int | None = None) -> torch.Tensor:
    if axis is not None:
        shape = [-1 if dimension == axis else 1 for dimension in range(codes.ndim)]
        scale, zero = scale.view(shape), zero.view(shape)
    return (codes.float() - zero.float()) * scale
