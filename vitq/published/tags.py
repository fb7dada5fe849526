"""Top-1 on ImageNet-1k's validation split that timm publishes for its pretrained tags."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Names of the hub under which timm's own tags lie.
_HUB = ("hf-hub:timm/", "hf_hub:timm/")


@dataclass(frozen=True)
class TagTop1:
    """top1: percent. size: side of the images. crop, interpolation: with which it was measured."""

    top1: float
    size: int
    crop: float
    interpolation: str


def published_top1(name: str) -> TagTop1 | None:
    """What is published of a model name with its tag, `deit_tiny_patch16_224.fb_in1k`; None where nothing is."""
    for prefix in _HUB:
        name = name.removeprefix(prefix)
    return _table().get(name.partition("@")[0])


@cache
def _table() -> dict[str, TagTop1]:
    lines = Path(__file__).with_suffix(".csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return {
        row["tag"]: TagTop1(float(row["top1"]), int(row["size"]), float(row["crop"]), row["interpolation"])
        for row in rows
    }
