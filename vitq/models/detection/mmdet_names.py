"""The names that mmdet 2.11 gives a detector's weights (Swin-Transformer-Object-Detection), and what we call them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vitq.errors import ModelError
from vitq.models.checkpoint import renamed_by

if TYPE_CHECKING:
    from torch import Tensor, nn

# The first that matches is applied; `\g<stage>` counts from 1 there and patch merging belongs to the stage behind it.
_RULES = (
    (r"backbone\.norm(\d)\.", r"backbone.norms.\1."),
    (r"backbone\.(?!body\.|norms\.|fpn\.)", "backbone.body."),
    (r"neck\.lateral_convs\.(\d)\.conv\.", r"backbone.fpn.inner_blocks.\1.0."),
    (r"neck\.fpn_convs\.(\d)\.conv\.", r"backbone.fpn.layer_blocks.\1.0."),
    (r"rpn_head\.rpn_conv\.", "rpn.head.conv.0.0."),
    (r"rpn_head\.rpn_cls\.", "rpn.head.cls_logits."),
    (r"rpn_head\.rpn_reg\.", "rpn.head.bbox_pred."),
    # A cascade has the number of the head in between, `(\d\.)?`.
    (r"roi_head\.bbox_head\.(\d\.)shared_convs\.(\d)\.conv\.", r"roi_heads.box_head.\1\2.0."),
    (r"roi_head\.bbox_head\.(\d\.)shared_convs\.(\d)\.bn\.", r"roi_heads.box_head.\1\2.1."),
    (r"roi_head\.bbox_head\.(\d\.)shared_fcs\.0\.", r"roi_heads.box_head.\g<1>5."),
    (r"roi_head\.bbox_head\.shared_fcs\.0\.", "roi_heads.box_head.fc6."),
    (r"roi_head\.bbox_head\.shared_fcs\.1\.", "roi_heads.box_head.fc7."),
    (r"roi_head\.bbox_head\.(\d\.)?fc_cls\.", r"roi_heads.box_predictor.\1cls_score."),
    (r"roi_head\.bbox_head\.(\d\.)?fc_reg\.", r"roi_heads.box_predictor.\1bbox_pred."),
    (r"roi_head\.mask_head\.(\d\.)?convs\.(\d)\.conv\.", r"roi_heads.mask_head.\1\2.0."),
    (r"roi_head\.mask_head\.(\d\.)?upsample\.", r"roi_heads.mask_predictor.\1conv5_mask."),
    (r"roi_head\.mask_head\.(\d\.)?conv_logits\.", r"roi_heads.mask_predictor.\1mask_fcn_logits."),
)
_MERGING = re.compile(r"(backbone\.layers\.)(\d)(\.downsample\.)")
# The later Swin of open-mmlab numbers and orders the same weights otherwise.
_OTHER_LAYOUT = re.compile(r"backbone\.stages\.\d+\.")


def checkpoint_filter_fn(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """mmdet's weights under our names (timm's protocol for a model's filter); names of ours stay.

    The background is mmdet's last class and our first one. Raises ModelError for the layout of mmdet 2.12 and later.
    """
    strange = [name for name in state if _OTHER_LAYOUT.match(name)]
    if strange:
        raise ModelError(
            f"the checkpoint has the layout of open-mmlab's own Swin ({strange[0]} …), whose patch merging orders "
            "channels otherwise; give a file of the repository Swin-Transformer-Object-Detection (releases v1.0.2, "
            "names backbone.layers.0.blocks.0.attn.qkv.weight …)",
            "model.checkpoint",
            strange[0],
        )
    renamed = {}
    for name, tensor in state.items():
        if name.endswith("relative_position_index"):
            continue  # computed from the window size
        renamed[_ours(name)] = tensor.roll(1, dims=0) if ".fc_cls." in name else tensor
    return renamed


def _ours(name: str) -> str:
    return renamed_by(_RULES, _MERGING.sub(lambda m: f"{m[1]}{int(m[2]) + 1}{m[3]}", name))
