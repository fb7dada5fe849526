"""A small folder of images with objects, as COCO has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitq.config import RunConfig

SIZES = ((50, 70), (64, 64), (41, 90), (64, 61))
MODEL: dict[str, Any] = {"name": "mask_rcnn", "pretrained": False, "kwargs": {"num_classes": 2}}
Config = Callable[..., RunConfig]


def _annotation(number: int, image: int, category: int = 3) -> dict[str, Any]:
    box = [4.0, 5.0, 20.0, 10.0]
    polygon = [[4.0, 5.0, 24.0, 5.0, 24.0, 15.0, 4.0, 15.0]]
    return {
        "id": number, "image_id": image, "category_id": category, "bbox": box, "area": 200.0, "iscrowd": 0,
        "segmentation": polygon,
    }  # fmt: skip


def write_coco(base: Path) -> None:
    """Two splits of four images; ids are in no order, the last image has no objects, and categories have gaps."""
    (base / "annotations").mkdir(parents=True)
    for split, seed in (("train2017", 0), ("val2017", 1)):
        (base / split).mkdir()
        rng = np.random.default_rng(seed)
        images = []
        for number, (height, width) in enumerate(SIZES):
            name = f"{number:012}.png"
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(base / split / name)
            images.append({"id": 100 - number, "file_name": name, "height": height, "width": width})
        content = {
            "info": split,
            "images": images,
            "annotations": [_annotation(1, 100), _annotation(2, 99, 7), _annotation(3, 99), _annotation(4, 98)],
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        }
        (base / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
