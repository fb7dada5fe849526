"""Detectors small enough for tests."""

from __future__ import annotations

from typing import Any

import torch

from vitq.models.detection.detector import Detector

# Its position embeddings are of 4x6 patches; the last 5 rows fill none.
YOLOS: dict[str, Any] = {"embed_dim": 24, "depth": 3, "num_heads": 2, "img_size": (4 * 16 + 5, 6 * 16), "queries": 5}


def small(cascade: bool = False, seed: int = 0, classes: int = 5) -> Detector:
    """The shape of the records of the original code, in evaluation, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Detector(8, (2, 2, 2, 2), (1, 2, 2, 4), 7, 16, 32, classes, 8, cascade).eval()


def sharp(cascade: bool = False, seed: int = 0, classes: int = 5) -> Detector:
    """One whose scores lie above the threshold, so that it finds something."""
    network = small(cascade, seed, classes)
    for name, parameter in network.named_parameters():
        if "cls_score.weight" in name or "cls_logits.weight" in name:
            parameter.data.mul_(30)
    return network
