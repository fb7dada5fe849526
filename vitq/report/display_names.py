"""Names as papers print them."""

from __future__ import annotations

import re

METHODS = {
    "fp32": "Full precision", "minmax": "Min-max", "percentile": "Percentile", "mse": "MSE", "repq_vit": "RepQ-ViT",
    "ias_vit": "I&S-ViT", "ptq4vit": "PTQ4ViT", "fq_vit": "FQ-ViT", "mptq_vit": "MPTQ-ViT",
    "mptq_vit_full": "MPTQ-ViT, fully quantized", "mptq_vit_mixed": "MPTQ-ViT, mixed",
    "mptq_vit_full_mixed": "MPTQ-ViT, fully quantized, mixed", "adalog": "AdaLog", "erq": "ERQ", "gptq": "GPTQ",
    "aocq": "AOCQ", "adaround": "AdaRound", "brecq": "BRECQ", "qdrop": "QDrop", "scale_predictor": "ScalePredictor",
    "mixed_precision": "Mixed precision", "integer": "Integer", "aphq_vit": "APHQ-ViT", "fima_q": "FIMA-Q",
    "adalog_reconstruct": "AdaLog, reconstructed", "glf_q": "GLF-Q", "ls_vit": "LS-ViT", "rols": "RoLS",
    "rols_distill": "RoLS, distilled",
}  # fmt: skip
DETECTORS = {"mask_rcnn": "Mask R-CNN", "cascade_mask_rcnn": "Cascade Mask R-CNN", "yolos": "YOLOS"}
_FAMILIES = {"vit": "ViT", "deit": "DeiT", "deit3": "DeiT III", "swin": "Swin", "yolos": "YOLOS"}
_SIZES = {"tiny": "T", "small": "S", "base": "B", "large": "L", "huge": "H"}


def method_name(name: str) -> str:
    """`repq_vit` → `RepQ-ViT`, `scale_predictor(ias_vit)` → `ScalePredictor (I&S-ViT)`, a tuned recipe's base with
    `tuned`; others as they are."""
    if on_base := re.fullmatch(r"([^()]+)\(([^()]+)\)", name):
        return f"{method_name(on_base[1])} ({method_name(on_base[2])})"
    base, tuned, _ = name.partition("_tuned")
    return f"{METHODS[base]}, tuned" if tuned and base in METHODS else METHODS.get(name, name)


def model_name(name: str) -> str:
    """`deit_tiny_patch16_224.fb_in1k` → `DeiT-T`, `mask_rcnn_swin_tiny` → `Mask R-CNN Swin-T`; others as they are."""
    if detector := re.fullmatch(r"((?:cascade_)?mask_rcnn)_(swin_.+)", name):
        return f"{DETECTORS[detector[1]]} {model_name(detector[2])}"
    match = re.match(r"([a-z0-9]+)_(tiny|small|base|large|huge)(?=_patch|\.|$)", name)
    if match is None or match[1] not in _FAMILIES:
        return DETECTORS.get(name, name)
    return f"{_FAMILIES[match[1]]}-{_SIZES[match[2]]}"
