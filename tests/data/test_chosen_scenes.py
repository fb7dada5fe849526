"""Which scenes calibrate and which are scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.coco_folder import Config
from tests.errors import is_about, refuses
from vitq.config import CalibConfig, RunConfig, signature
from vitq.data import calibration_scenes, problems, scored_scenes
from vitq.errors import DataError
from vitq.progress import Progress


def test_calibration_images_are_chosen_by_seed(config: Config) -> None:
    one = calibration_scenes(config(), Progress())
    assert len(one) == 3
    again = calibration_scenes(config(), Progress())
    assert np.array_equal(one.pixels, again.pixels)


def test_an_image_that_calibrates_is_not_scored(coco_root: Path, config: Config) -> None:
    for path in (coco_root / "val2017").iterdir():
        path.write_bytes((coco_root / "train2017" / path.name).read_bytes())
    assert any(is_about(problem, "data.calib_split", "train2017") for problem in problems(config()))
    assert problems(config(allow_overlap=True)) == []


def test_ids_of_no_image_are_named(config: Config) -> None:
    made = replace(config(), calib=CalibConfig(ids=(98, 7, 1)))
    (problem,) = problems(made)
    assert is_about(problem, "calib.ids", [7, 1], [97, 98, 99, 100])
    with refuses(DataError, "calib.ids", [7, 1]):
        calibration_scenes(made, Progress())


def test_data_without_numbers_takes_no_ids(tmp_path: Path) -> None:
    raw = {
        "model": {"name": "vit_digits", "input_size": 32},
        "data": {
            "name": "digits",
            "dataset": "digits",
            "num_classes": 10,
            "calib_split": "calib",
            "eval_split": "test",
        },
        "method": {"name": "minmax", "kinds": {"default": {}}, "steps": {"ranges": {"do": "calibrate"}}},
        "calib": {"ids": [1]},
        "cache_dir": str(tmp_path),
    }
    made, _ = RunConfig.parse(raw)
    assert made is not None
    (problem,) = problems(made)
    assert is_about(problem, "calib.ids", [1])


@pytest.mark.parametrize("ids", [[], [4, 5, 4]])
def test_ids_are_different_images(config: Config, ids: list[int]) -> None:
    plain = config().to_dict()
    plain["calib"]["ids"] = ids
    _, (problem,) = RunConfig.parse(plain)
    assert is_about(problem, "calib.ids", ids)


def test_an_image_that_calibrates_and_is_scored_must_be_asked_for(config: Config) -> None:
    """The protocol of RepQ-ViT's public code: one of the scored images."""
    made = replace(config(calib_split="val2017"), calib=CalibConfig(ids=(99,)))
    assert any(is_about(problem, "data.calib_split", "val2017") for problem in problems(made))
    meant = replace(made, data=replace(made.data, allow_overlap=True))
    assert problems(meant) == []
    assert signature(meant) == signature(made)
    # The first two of the split, 97 and 98, are scored.
    few = replace(made, data=replace(made.data, eval_limit=2, eval_choice="first"))
    assert problems(few) == []


def test_held_out_scenes_are_scored_and_do_not_calibrate(config: Config) -> None:
    made = config(held_out=2, eval_split="train2017")
    made = replace(made, calib=CalibConfig(size=2))
    scored = {image["id"] for image in scored_scenes(made, Progress()).truth["images"]}
    used = {image["id"] for image in calibration_scenes(made, Progress()).truth["images"]}
    assert len(scored) == len(used) == 2
    assert not scored & used
    named = replace(made, calib=CalibConfig(ids=tuple(scored)))
    assert any(is_about(problem, "data.calib_split", "train2017") for problem in problems(named))


def test_so_many_scenes_are_spread_over_the_split(config: Config) -> None:
    chosen = {
        choice: [image["id"] for image in scored_scenes(made, Progress()).truth["images"]]
        for choice in ("first", "spread")
        for made in [config(eval_limit=2, eval_choice=choice)]
    }
    assert chosen == {"first": [97, 98], "spread": [97, 99]}
