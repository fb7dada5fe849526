"""Small image folders, images with objects, and configs of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.coco_folder import MODEL, Config, write_coco
from tests.image_folders import CLASSES, Make, write_image
from vitq.config import RunConfig


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """train: 3 classes with 5, 4 and 2 images; val: 2 images each."""
    place = tmp_path / "images"
    for split, counts in (("train", (5, 4, 2)), ("val", (2, 2, 2))):
        for rank, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
            for number in range(count):
                write_image(place / split / name / f"img{number + 8}.png", 100 * rank + number + len(split))
    return place


@pytest.fixture
def class_map(tmp_path: Path) -> Path:
    path = tmp_path / "classes.txt"
    path.write_text("n0\nn1\nn2\nn3\nn10\n")
    return path


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make(model={…}, data={…}, …) → RunConfig with a cache of its own; the digits where `data` is not given."""

    def build(**parts: Any) -> RunConfig:
        raw: dict[str, Any] = {
            "model": {"name": "vit_digits", "input_size": 32, "crop_pct": 1.0, "pretrained": False},
            "data": {
                "name": "digits",
                "dataset": "digits",
                "calib_split": "calib",
                "eval_split": "test",
                "num_classes": 10,
            },
            "method": {"name": "m", "kinds": {"default": {}}},
            "calib": {"size": 6},
            "cache_dir": str(tmp_path / "cache"),
        }
        data = parts.pop("data", None)
        raw["data"] = raw["data"] if data is None else {"name": "folder", "num_classes": 3, **data}
        for key, value in parts.items():
            raw[key] = raw[key] | value if isinstance(value, dict) and key in raw else value
        made, problems = RunConfig.parse(raw)
        assert made is not None, problems
        return made

    return build


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    """See write_coco."""
    write_coco(tmp_path / "coco")
    return tmp_path / "coco"


@pytest.fixture
def config(coco_root: Path, tmp_path: Path) -> Config:
    """config(model={…}, key of data=…, …) → RunConfig of the images below `coco_root`."""

    def build(model: dict[str, Any] | None = None, **data: Any) -> RunConfig:
        raw = {
            "model": MODEL | (model or {}),
            "data": {
                "name": "coco", "dataset": "coco", "root": str(coco_root), "calib_split": "train2017",
                "eval_split": "val2017", "num_classes": 2,
            } | data,
            "method": {"name": "minmax", "kinds": {"default": {}}, "steps": {"ranges": {"do": "calibrate"}}},
            "calib": {"size": 3},
            "task": "segmentation",
            "cache_dir": str(tmp_path / "cache"),
        }  # fmt: skip
        parsed, wrong = RunConfig.parse(raw)
        assert wrong == []
        assert parsed is not None
        return parsed

    return build
