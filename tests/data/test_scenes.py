"""Images with objects: COCO's files, and images of many sizes in one cache."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.coco_folder import SIZES, Config
from tests.errors import is_about, refuses
from vitq.config import CalibConfig
from vitq.data import RaggedImages, calibration_scenes, describe, problems, scored_scenes
from vitq.data.coco import open_coco
from vitq.data.images import ImageSet
from vitq.data.resize import resize, resized
from vitq.errors import DataError
from vitq.progress import Progress


@pytest.fixture
def root(coco_root: Path) -> Path:
    """In place of the images in class folders."""
    return coco_root


def _edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_split_is_read_in_the_order_of_its_ids(config: Config) -> None:
    scenes = scored_scenes(config(), Progress())
    assert [image["id"] for image in scenes.truth["images"]] == [97, 98, 99, 100]
    assert [category["id"] for category in scenes.truth["categories"]] == [3, 7]
    assert [entry["id"] for entry in scenes.truth["annotations"]] == [4, 2, 3, 1]
    assert scenes.shapes.tolist() == [list(size) for size in SIZES[::-1]]
    assert scenes.originals.tolist() == scenes.shapes.tolist()
    assert problems(config()) == []


def test_images_are_normalized_before_they_are_padded(config: Config, root: Path) -> None:
    scenes = scored_scenes(config(), Progress())
    (first, _), *others = list(scenes.batches(2, "cpu"))
    assert first.pixels.shape == (1, 3, 64, 64)  # 64x61; its neighbour is wider when padded
    assert [batch.pixels.shape for batch, _ in others] == [(1, 3, 64, 96), (1, 3, 64, 64), (1, 3, 64, 96)]
    assert first.sizes.tolist() == [[64, 61]]
    pixels = torch.from_numpy(np.array(Image.open(root / "val2017" / "000000000003.png"))).permute(2, 0, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (scenes.mean, scenes.std))
    assert torch.allclose(first.pixels[0, :, :, :61], (pixels / 255 - mean) / std, atol=1e-5)
    assert not first.pixels[0, :, :, 61:].any()


def test_the_cache_is_read_again_and_made_anew_where_it_is_cut(config: Config, root: Path, tmp_path: Path) -> None:
    made = scored_scenes(config(), Progress())
    for path in (root / "val2017").iterdir():
        path.chmod(0o000)
    again = scored_scenes(config(), Progress())
    assert np.array_equal(made.pixels, again.pixels)
    (entry,) = (tmp_path / "cache" / "images").glob("ragged-*[!k]")
    for path in (root / "val2017").iterdir():
        path.chmod(0o644)
    whole = (entry / "pixels.bin").read_bytes()
    (entry / "pixels.bin").write_bytes(whole[:-1])
    scored_scenes(config(), Progress())
    assert (entry / "pixels.bin").read_bytes() == whole


def test_sides_follow_the_model(config: Config) -> None:
    scenes = scored_scenes(config(model={"short_side": 96, "long_side": 150}), Progress())
    # 41x90 is limited by its long side.
    assert scenes.shapes.tolist() == [[101, 96], [68, 150], [96, 96], [96, 134]]
    assert scenes.originals.tolist() == [list(size) for size in SIZES[::-1]]
    assert resized(480, 640, config(model={"short_side": 800, "long_side": 1333}).model) == (800, 1067)
    assert resized(200, 640, config(model={"short_side": 800, "long_side": 1333}).model) == (417, 1333)


def test_resizing_is_plain_bilinear(config: Config) -> None:
    """Twice the size: each new pixel is a quarter of the way between two centres."""
    row = np.array([[0, 100, 200, 40]] * 8, dtype=np.uint8)
    image = Image.fromarray(np.stack([np.repeat(row, 2, axis=1)] * 3, axis=-1))
    doubled = resize(image, config(model={"short_side": 16}).model)
    assert doubled.shape == (3, 16, 16)
    assert doubled[0, 5].tolist() == [0, 0, 0, 25, 75, 100, 100, 125, 175, 200, 200, 160, 80, 40, 40, 40]


def test_take_keeps_pixels_and_objects_together(config: Config) -> None:
    scenes = scored_scenes(config(), Progress())
    taken = scenes.take([3, 2])
    assert [image["id"] for image in taken.truth["images"]] == [100, 99]
    assert {entry["image_id"] for entry in taken.truth["annotations"]} == {100, 99}
    (first, _), (second, _) = taken.batches(4, "cpu")
    want = [batch for batch, _ in scenes.batches(1, "cpu")]
    assert torch.equal(first.pixels, want[3].pixels)
    assert torch.equal(second.pixels, want[2].pixels)
    assert taken.fingerprint != scenes.fingerprint


def test_equal_sizes_give_what_an_image_set_gives() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 96), dtype=np.uint8)
    mean, std = (0.4, 0.5, 0.3), (0.2, 0.1, 0.3)
    flat = ImageSet(pixels, np.zeros(5, np.int64), mean, std, "f")
    sizes = np.array([[64, 96]] * 5)
    truth = {"images": [{"id": i} for i in range(5)], "annotations": [], "categories": []}
    ragged = RaggedImages(pixels.ravel(), sizes, sizes, truth, mean, std, "f")
    for (one, labels), (other, others) in zip(flat.batches(2, "cpu"), ragged.batches(2, "cpu"), strict=True):
        assert torch.equal(one, other.pixels)
        assert torch.equal(labels, others)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda c: c.pop("categories"), "data.root"),
        (lambda c: c["annotations"][0].update(image_id=12345), "data.root"),
        (lambda c: c["annotations"][0].update(category_id=4), "data.root"),
        (lambda c: c["images"][0].pop("file_name"), "data.root"),
        (lambda c: c["images"][0].update(file_name="gone.png"), "data.root"),
        (lambda c: c["images"].insert(0, 100), "data.root"),
        (lambda c: c["images"][0].update(id="100"), "data.root"),
        (lambda c: c["images"][0].update(height=0), "data.root"),
        (lambda c: c["images"][0].update(id=c["images"][1]["id"]), "data.root"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "data.root"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, float("nan"), 3]), "data.root"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 3]), "data.root"),
        (lambda c: c["annotations"][0].update(area=None), "data.root"),
        (lambda c: c["annotations"][0].update(segmentation=None), "data.root"),
        (lambda c: c["annotations"][0].update(id=c["annotations"][1]["id"]), "data.root"),
    ],
)
def test_files_that_do_not_fit_each_other(
    root: Path, change: Callable[[dict[str, Any]], None], key: str, config: Config
) -> None:
    _edit(root / "annotations" / "instances_val2017.json", change)
    with refuses(DataError, key):
        open_coco(str(root), "val2017")
    assert any(is_about(problem, key) for problem in problems(config()))


def test_broken_files_and_missing_splits(root: Path, config: Config) -> None:
    file = root / "annotations" / "instances_val2017.json"
    with refuses(DataError, "data.eval_split", "test2017", ["train2017", "val2017"]):
        open_coco(str(root), "test2017")
    file.write_text(file.read_text()[:-20])
    with refuses(DataError, "data.root", str(file)):
        open_coco(str(root), "val2017")
    file.unlink()
    assert any(is_about(problem, "data.eval_split", "val2017") for problem in problems(config()))


def test_a_truncated_image_and_one_of_another_size(root: Path, config: Config) -> None:
    path = root / "val2017" / "000000000001.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with refuses(DataError, value=repr(str(path))):
        scored_scenes(config(), Progress())
    Image.new("RGB", (8, 8)).save(path)
    with refuses(DataError, value=repr(str(path))):
        scored_scenes(config(), Progress())


def test_files_are_looked_at_before_anything_starts(root: Path, config: Config) -> None:
    """Those of the images that are scored or calibrate: whole, and of the size that the annotations say."""
    path, other = (root / "val2017" / f"00000000000{number}.png" for number in (1, 2))
    before, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(before[: len(before) // 2])
    (problem,) = problems(config())
    assert is_about(problem, "data.root", repr(str(path)))
    few = config(eval_limit=2, eval_choice="first")  # it is not scored
    assert problems(few) == []
    Image.new("RGB", (8, 8)).save(other)
    assert [problem.value for problem in problems(config())] == [repr(str(other)), repr(str(path))]
    path.write_bytes(before)
    other.write_bytes(b"")
    (problem,) = problems(config())
    assert is_about(problem, "data.root", repr(str(other)))
    other.write_bytes(second)
    calib = root / "train2017" / "000000000003.png"
    calib.write_bytes(calib.read_bytes()[:2000])
    made = replace(few, calib=CalibConfig(ids=(97,)))
    assert is_about(problems(made)[0], "data.root", repr(str(calib)))
    assert problems(replace(made, calib=CalibConfig(ids=(98,)))) == []


def test_a_whole_file_with_more_behind_it_is_used(root: Path, config: Config) -> None:
    path = root / "val2017" / "000000000001.png"
    path.write_bytes(path.read_bytes() + bytes(100))
    assert problems(config()) == []


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[1.0, 2.0, 3.0, 4.0]],
        [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]],
        [[1.0, 2.0, 3.0, 4.0, 5.0, None]],
        {"size": [3, 4], "counts": [12]},
        {"size": [41, 90]},
    ],
)
def test_objects_without_masks_are_scored_by_their_boxes_alone(segmentation: Any, root: Path, config: Config) -> None:
    file = root / "annotations" / "instances_val2017.json"
    _edit(file, lambda c: c["annotations"][3].update(segmentation=segmentation))
    (problem,) = problems(config())
    assert is_about(problem, "data.root", [4])
    assert problems(replace(config(), task="detection")) == []


@pytest.mark.parametrize(
    ("change", "alone"),
    [
        (lambda c: c["categories"].append({"id": 9, "name": "cow"}), ["cow (id 9)"]),
        (lambda c: c["categories"][0].update(name="cow"), ["cat (id 7)", "cow (id 7)"]),
    ],
)
def test_both_splits_have_the_same_categories(
    change: Callable[[dict[str, Any]], None], alone: list[str], root: Path, config: Config
) -> None:
    _edit(root / "annotations" / "instances_train2017.json", change)
    count = 2 + (len(alone) == 1)
    (problem,) = problems(config({"kwargs": {"num_classes": count}}, num_classes=count))
    assert is_about(problem, "data.root", alone)


def test_a_box_without_area_is_no_fault(root: Path, config: Config) -> None:
    _edit(root / "annotations" / "instances_val2017.json", lambda c: c["annotations"][0].update(bbox=[3, 4, 0, 0]))
    assert problems(config()) == []


def test_scored_images_hold_objects_that_count(root: Path, config: Config) -> None:
    """The first image, 97, has none; a crowd is not scored."""
    first = config(eval_limit=1, eval_choice="first")
    assert any(is_about(problem, "data.eval_split", "val2017") for problem in problems(first))

    def crowds(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            entry["iscrowd"] = 1

    _edit(root / "annotations" / "instances_val2017.json", crowds)
    assert any(is_about(problem, "data.eval_split", "val2017") for problem in problems(config()))


def test_no_objects_and_other_categories_are_problems(root: Path, config: Config) -> None:
    found = problems(config(num_classes=80))
    assert any(is_about(problem, "data.num_classes", 80, [2]) for problem in found)
    _edit(root / "annotations" / "instances_val2017.json", lambda c: c["annotations"].clear())
    assert any(is_about(problem, "data.eval_split", "val2017") for problem in problems(config()))


def test_calibration_images_by_their_ids(config: Config) -> None:
    """In the order in which they are named, whatever the seed."""
    made = replace(config(), calib=CalibConfig(ids=(100, 98)), seed=3)
    assert made.calib.size == 2
    assert problems(made) == []
    assert [image["id"] for image in calibration_scenes(made, Progress()).truth["images"]] == [100, 98]


def test_objects_are_part_of_the_identity(root: Path, config: Config) -> None:
    before = describe(config()).fingerprint
    _edit(root / "annotations" / "instances_val2017.json", lambda c: c["annotations"].pop())
    assert describe(config()).fingerprint.split("-")[0] == before.split("-")[0]
    assert describe(config()).fingerprint != before


def test_real_images(config: Config) -> None:
    """VITQ_TINY_COCO: a hundred images of COCO with crowds, polygons and images without objects, read through the
    cache."""
    place = os.environ.get("VITQ_TINY_COCO")
    if not place:
        pytest.skip("VITQ_TINY_COCO names no folder with images of COCO")
    sides = {"short_side": 80, "long_side": 133, "kwargs": {"num_classes": 80}}
    for split, other in (("train2017", "val2017"), ("val2017", "train2017")):
        source = open_coco(place, split)
        assert len(source) == 50
        assert len(source.categories) == 80
        truth = source.truth(np.arange(50))
        assert len(truth["annotations"]) == source.objects
        assert {bool(entry["iscrowd"]) for entry in truth["annotations"]} == {False, True}
        cell = config(model=sides, root=place, eval_split=split, calib_split=other, num_classes=80)
        assert problems(cell) == []
        scenes = scored_scenes(cell, Progress())
        assert scenes.truth["images"] == truth["images"]
        assert scenes.originals.tolist() == [[image["height"], image["width"]] for image in truth["images"]]
        assert (scenes.shapes.min(axis=1) <= 80).all()
        assert (scenes.shapes.max(axis=1) <= 133).all()
        numbers = 0
        for batch, _ in scenes.batches(8, "cpu"):
            assert bool(batch.pixels.isfinite().all())
            numbers += 3 * int(batch.sizes.prod(dim=1).sum())
        assert numbers == len(scenes.pixels)
        first = Image.open(Path(place) / split / f"{truth['images'][0]['id']:012}.jpg").convert("RGB")
        height, width = scenes.shapes[0].tolist()
        assert np.array_equal(scenes.pixels[: 3 * height * width].reshape(3, height, width), resize(first, cell.model))
