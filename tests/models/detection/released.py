"""Files of detectors as Swin-Transformer-Object-Detection released them: mmdet's names, written down from its code."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from vitq.models.detection.detector import Detector

# Our name → mmdet 2.11's; `(\d\.)?` is the head of a cascade.
_NAMES = (
    (r"backbone\.norms\.(\d)\.", r"backbone.norm\1."),
    (r"backbone\.body\.", "backbone."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"neck.lateral_convs.\1.conv."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"neck.fpn_convs.\1.conv."),
    (r"rpn\.head\.conv\.0\.0\.", "rpn_head.rpn_conv."),
    (r"rpn\.head\.cls_logits\.", "rpn_head.rpn_cls."),
    (r"rpn\.head\.bbox_pred\.", "rpn_head.rpn_reg."),
    (r"roi_heads\.box_head\.fc6\.", "roi_head.bbox_head.shared_fcs.0."),
    (r"roi_heads\.box_head\.fc7\.", "roi_head.bbox_head.shared_fcs.1."),
    (r"roi_heads\.box_head\.(\d)\.([0-3])\.0\.", r"roi_head.bbox_head.\1.shared_convs.\2.conv."),
    (r"roi_heads\.box_head\.(\d)\.([0-3])\.1\.", r"roi_head.bbox_head.\1.shared_convs.\2.bn."),
    (r"roi_heads\.box_head\.(\d)\.5\.", r"roi_head.bbox_head.\1.shared_fcs.0."),
    (r"roi_heads\.box_predictor\.(\d\.)?cls_score\.", r"roi_head.bbox_head.\1fc_cls."),
    (r"roi_heads\.box_predictor\.(\d\.)?bbox_pred\.", r"roi_head.bbox_head.\1fc_reg."),
    (r"roi_heads\.mask_head\.(\d\.)?(\d)\.0\.", r"roi_head.mask_head.\1convs.\2.conv."),
    (r"roi_heads\.mask_predictor\.(\d\.)?conv5_mask\.", r"roi_head.mask_head.\1upsample."),
    (r"roi_heads\.mask_predictor\.(\d\.)?mask_fcn_logits\.", r"roi_head.mask_head.\1conv_logits."),
)
_MERGING = re.compile(r"(backbone\.layers\.)(\d)(\.downsample\.)")


def release(network: Detector, file: Path) -> dict[str, Tensor]:
    """Write a network's weights as the papers' `.pth`, and return them under mmdet's names.

    The background is mmdet's last class and our first; patch merging belongs to the stage before it. The file holds
    what mmdet's files hold besides: `meta`, and the index of each window.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        for ours, theirs in _NAMES:
            name, matched = re.subn(f"^{ours}", theirs, name)
            if matched:
                break
        else:
            raise AssertionError(f"no name of mmdet for {name}")
        name = _MERGING.sub(lambda m: f"{m[1]}{int(m[2]) - 1}{m[3]}", name)
        state[name] = tensor.roll(-1, dims=0) if ".fc_cls." in name else tensor
        if name.endswith("relative_position_bias_table"):
            side = int(tensor.shape[0] ** 0.5 + 1) // 2
            index = torch.zeros(side * side, side * side, dtype=torch.int64)
            state[name.replace("bias_table", "index")] = index
    torch.save({"meta": {"mmdet_version": "2.11.0", "epoch": 36, "CLASSES": ("person",)}, "state_dict": state}, file)
    return state
