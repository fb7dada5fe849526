"""Small networks of every family that the engine knows, and what can be done with each: a row for a variant."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.models.test_anatomy import variant

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


def network(case: str) -> nn.Module:
    name, kwargs, _, _ = CASES[case]
    return variant(name, kwargs)


def images(model: nn.Module, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))
