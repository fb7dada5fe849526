"""The embedded scenes of digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.coco_folder import MODEL, Config
from tests.errors import is_about, refuses
from vitq.config import RunConfig
from vitq.data import problems, scored_scenes
from vitq.data.digit_scenes import COUNTS, DigitScenes, draw, run_lengths
from vitq.errors import DataError
from vitq.progress import Progress


def test_scenes_are_the_same_each_time() -> None:
    draw.cache_clear()
    one = draw("test", 3)
    draw.cache_clear()
    assert all(np.array_equal(a, b) for a, b in zip(one, draw("test", 3), strict=True))
    assert not np.array_equal(draw("train", 3).pixels, one.pixels)
    assert all(np.array_equal(a, b) for a, b in zip(draw("train", 3), draw("calib", 3), strict=True))


@pytest.mark.parametrize("index", range(0, 40, 7))
def test_boxes_enclose_masks_and_masks_lie_on_ink(index: int) -> None:
    scene = draw("test", index)
    assert 1 <= len(scene.labels) <= 5
    for box, mask in zip(scene.boxes, scene.masks, strict=True):
        rows, columns = mask.nonzero()
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert scene.pixels[mask].min() >= 60


def test_run_lengths_are_cocos() -> None:
    assert run_lengths(np.array([[0, 1, 1], [1, 1, 0]], dtype=bool)) == [1, 4, 1]
    assert run_lengths(np.array([[1, 0], [1, 0]], dtype=bool)) == [0, 2, 2]
    assert run_lengths(np.zeros((2, 3), dtype=bool)) == [6]


def test_digit_scenes_as_a_data_set(tmp_path: Path, config: Config) -> None:
    made = config(name="digit_scenes", dataset="digit_scenes", root=None, calib_split="calib", eval_split="test",
                  num_classes=10, eval_limit=6)  # fmt: skip
    made = RunConfig.parse(made.to_dict() | {"model": MODEL | {"kwargs": {"num_classes": 10}}})[0] or made
    scenes = scored_scenes(made, Progress())
    assert len(scenes) == 6
    boxes = [entry["bbox"] for entry in scenes.truth["annotations"] if entry["image_id"] == 2]
    assert [[x, y, x + w, y + h] for x, y, w, h in boxes] == draw("test", 2).boxes.tolist()
    assert problems(made) == []
    assert len(DigitScenes("train")) == COUNTS["train"]
    with refuses(DataError, value="val", valid=["test"]):
        DigitScenes("val")


def test_calibration_scenes_must_not_hold_scored_digits(config: Config) -> None:
    made = config(name="digit_scenes", dataset="digit_scenes", root=None, calib_split="calib", eval_split="train",
                  num_classes=10)  # fmt: skip
    assert any(is_about(problem, "data.calib_split", "calib") for problem in problems(made))
