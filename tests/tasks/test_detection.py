"""Scores of detectors: pycocotools' own, and what a run keeps of each image."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.errors import refuses
from vitq.data.coco import open_coco
from vitq.data.digit_scenes import DigitScenes
from vitq.data.ragged import RaggedImages
from vitq.errors import problem_of
from vitq.models.detection.outputs import Detections
from vitq.models.detection.paste import paste
from vitq.store.metrics import DetectionMetrics, Metrics
from vitq.tasks.coco_scores import FIGURES, Scored, run_length
from vitq.tasks.detection import Detection, Segmentation
from vitq.tasks.task import TASKS, Outputs

COUNT = 12


@pytest.fixture(scope="module")
def scenes() -> RaggedImages:
    """Test scenes whose network sees them at twice their size."""
    truth = DigitScenes("test").truth(np.arange(COUNT))
    originals = np.array([[image["height"], image["width"]] for image in truth["images"]])
    pixels = np.zeros(3 * 4 * int(originals.prod(axis=1).sum()), np.uint8)
    return RaggedImages(pixels, 2 * originals, originals, truth, (0.0,) * 3, (1.0,) * 3, "f")


def perfect(scenes: RaggedImages, index: int) -> Detections:
    """All objects of a scene, as a network that sees it at twice its size would give them; masks fill their boxes."""
    image = scenes.truth["images"][index]
    entries = [entry for entry in scenes.truth["annotations"] if entry["image_id"] == image["id"]]
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (entry["bbox"] for entry in entries)]) * 2
    labels = torch.tensor([entry["category_id"] - 1 for entry in entries])
    return Detections(boxes, torch.linspace(1, 0.6, len(entries)), labels, torch.ones(len(entries), 28, 28))


def perturbed(scenes: RaggedImages, seed: int) -> list[Detections]:
    """Boxes moved, some objects missed, some of a wrong class, some invented."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index in range(len(scenes)):
        boxes, scores, labels, masks = perfect(scenes, index)
        boxes = boxes + 6 * torch.randn(boxes.shape, generator=generator)
        boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 2)], dim=1).clamp(min=0)
        labels = torch.where(torch.rand(len(labels), generator=generator) < 0.2, (labels + 1) % 10, labels)
        scores = torch.rand(len(scores), generator=generator)
        keep = torch.rand(len(scores), generator=generator) < 0.9
        found.append(Detections(boxes[keep], scores[keep], labels[keep], masks[keep]))
    return found


def outputs(task: Detection, scenes: RaggedImages, found: list[Detections]) -> Outputs:
    """As a run makes them, in batches of different sizes."""
    parts = [task.keep(found[:1], scenes, 0), task.keep(found[1:5], scenes, 1), task.keep(found[5:], scenes, 5)]
    return task.join(parts, scenes, "test")


def test_boxes_are_in_pixels_of_the_image_that_was_read(scenes: RaggedImages) -> None:
    task = Segmentation()
    kept = outputs(task, scenes, [perfect(scenes, index) for index in range(COUNT)])
    entries = task._entries(kept, scenes, "bbox")
    want = [(entry["image_id"], entry["category_id"], entry["bbox"]) for entry in scenes.truth["annotations"]]
    assert [(entry["image_id"], entry["category_id"], entry["bbox"]) for entry in entries] == want


def test_masks_are_those_of_the_boxes_after_resizing(scenes: RaggedImages) -> None:
    task = Segmentation()
    found = perturbed(scenes, 0)
    kept = outputs(task, scenes, found)
    entries = task._entries(kept, scenes, "segm")
    position = 0
    for index, image in enumerate(found):
        height, width = scenes.originals[index].tolist()
        for mask in paste(image.masks, image.boxes / 2, height, width):
            code = entries[position]["segmentation"]
            assert np.array_equal(coco_mask.decode(code), mask.numpy())
            position += 1
    assert position == len(entries)


@pytest.mark.parametrize("form", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_are_pycocotools_own(scenes: RaggedImages, form: Any, seed: int, tmp_path: Path) -> None:
    """Through files, as its own demonstration does it."""
    task = Segmentation()
    entries = task._entries(outputs(task, scenes, perturbed(scenes, seed)), scenes, form)
    (tmp_path / "truth.json").write_text(json.dumps(scenes.truth))
    for entry in entries:
        if "segmentation" in entry:
            entry["segmentation"] = {**entry["segmentation"], "counts": entry["segmentation"]["counts"].decode()}
    (tmp_path / "found.json").write_text(json.dumps(entries))
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(known, known.loadRes(str(tmp_path / "found.json")), form)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = Scored(scenes.truth, entries, form).average()
    for name, theirs in zip(FIGURES, evaluation.stats[:6], strict=True):
        assert math.isnan(ours[name]) if theirs < 0 else ours[name] == pytest.approx(100 * theirs, abs=1e-6)
    assert 0 < ours[""] < 100


@pytest.mark.parametrize("form", ["bbox", "segm"])
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_scores_are_pycocotools_own_on_real_images(form: Any, split: str) -> None:
    """Crowds, polygons and images without objects: the objects themselves, and moved ones, against its own files."""
    place = os.environ.get("VITQ_TINY_COCO")
    if not place:
        pytest.skip("VITQ_TINY_COCO names no folder with images of COCO")
    truth = open_coco(place, split).truth(np.arange(50))
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(Path(place) / "annotations" / f"instances_{split}.json"))
    rng = np.random.default_rng(0)
    perfect: list[dict[str, Any]] = []
    moved: list[dict[str, Any]] = []
    for entry in truth["annotations"]:
        if entry["iscrowd"]:
            continue
        pixels = known.annToMask(known.anns[entry["id"]])
        for found, reach in ((perfect, 0), (moved, 6)):
            by = rng.integers(-reach, reach + 1, 2)
            box = (np.array(entry["bbox"]) + np.array([*by, 0, 0])).tolist()
            mask = run_length(torch.from_numpy(np.roll(pixels, by[::-1], (0, 1)).astype(bool))[None])[0]
            same = {key: entry[key] for key in ("image_id", "category_id")}
            found.append(
                same | {"score": float(rng.random())} | ({"bbox": box} if form == "bbox" else {"segmentation": mask})
            )
    assert {entry["image_id"] for entry in perfect} < {image["id"] for image in truth["images"]}
    for found, whole in ((perfect, True), (moved, False)):
        ours = Scored(truth, found, form).average()
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(known, known.loadRes([dict(entry) for entry in found]), form)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert [ours[name] for name in FIGURES] == pytest.approx([100 * v for v in evaluation.stats[:6]], abs=1e-6)
        assert (ours[""] == pytest.approx(100)) == whole


def test_all_objects_found_is_a_hundred(scenes: RaggedImages) -> None:
    task = Detection()
    kept = outputs(task, scenes, [perfect(scenes, index) for index in range(COUNT)])
    metrics = task.metrics(kept, kept, scenes)
    assert (metrics.ap_box, metrics.ap_box50, metrics.drop_box, metrics.fidelity_box) == (100, 100, 0, 100)
    assert metrics.ap_box_large is None  # no digit is so large
    assert metrics.ap_mask is None
    assert len(kept["mask"]) == 0


def test_crowds_are_no_misses_and_no_finds() -> None:
    size = {"height": 40, "width": 40}
    crowd = {"size": [40, 40], "counts": [0, 800, 800]}
    truth = {
        "images": [{"id": 5, **size}],
        "categories": [{"id": 9, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 9, "bbox": [30, 2, 8, 8], "area": 64, "iscrowd": 0,
             "segmentation": [[30, 2, 38, 2, 38, 10, 30, 10]]},
            {"id": 2, "image_id": 5, "category_id": 9, "bbox": [0, 0, 20, 40], "area": 800, "iscrowd": 1,
             "segmentation": crowd},
        ],
    }  # fmt: skip
    inside = {"image_id": 5, "category_id": 9, "score": 0.9, "bbox": [2, 2, 6, 6]}
    right = {"image_id": 5, "category_id": 9, "score": 0.5, "bbox": [30, 2, 8, 8]}
    assert Scored(truth, [inside, right], "bbox").average()[""] == pytest.approx(100)
    outside = inside | {"bbox": [22, 20, 6, 6]}
    assert Scored(truth, [outside, right], "bbox").average()[""] == pytest.approx(50)
    assert Scored(truth, [], "bbox").average()[""] == 0
    assert Scored(truth, [], "segm").average()[""] == 0
    assert math.isnan(Scored({**truth, "annotations": []}, [right], "bbox").average()[""])


def test_fidelity_needs_no_labels(scenes: RaggedImages) -> None:
    """Against what full precision is sure of: its own detections are all right, whatever the labels say."""
    task = Segmentation()
    full = [Detections(f.boxes, f.scores / 2 + 0.5, f.labels, f.masks) for f in perturbed(scenes, 3)]
    reference = outputs(task, scenes, full)
    same = task.metrics(reference, reference, scenes)
    assert same.ap_box is not None
    assert same.ap_box < 90
    assert same.fidelity_box == pytest.approx(100)
    assert same.fidelity_mask == pytest.approx(100)
    other = task.metrics(outputs(task, scenes, perturbed(scenes, 4)), reference, scenes)
    assert other.fidelity_mask is not None
    assert other.fidelity_mask < 90
    assert other.drop_mask == pytest.approx((same.ap_mask or 0) - (other.ap_mask or 0))


def test_nothing_found_is_zero(scenes: RaggedImages) -> None:
    task = Segmentation()
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 28, 28))
    empty = outputs(task, scenes, [none] * COUNT)
    full = outputs(task, scenes, [perfect(scenes, index) for index in range(COUNT)])
    metrics = task.metrics(empty, full, scenes)
    assert (metrics.ap_box, metrics.ap_mask, metrics.fidelity_box, metrics.fidelity_mask) == (0, 0, 0, 0)
    assert task.metrics(full, empty, scenes).fidelity_box is None


def test_scores_that_are_not_finite_are_refused(scenes: RaggedImages) -> None:
    task = Detection()
    found = perfect(scenes, 0)
    broken = found._replace(scores=torch.full_like(found.scores, math.nan))
    with refuses(ValueError, "score") as error:
        task.join([task.keep([broken], scenes, 0)], scenes, "evaluate")
    assert problem_of(error.value).where == "evaluate"


def test_predictions_hold_all_that_scores_need(scenes: RaggedImages) -> None:
    task = Segmentation()
    kept = outputs(task, scenes, perturbed(scenes, 5))
    stored = task.predictions(kept, scenes)
    assert stored["id"].tolist() == list(range(COUNT))
    again = {name: torch.from_numpy(value) for name, value in stored.items() if name != "id"}
    assert task.metrics(again, kept, scenes) == task.metrics(kept, kept, scenes)
    assert task.differs(stored, stored) is None
    assert task.differs(stored, task.predictions(outputs(task, scenes, perturbed(scenes, 6)), scenes)) is not None


@pytest.mark.parametrize("form", ["bbox", "segm"])
def test_precision_of_an_image_is_that_of_it_alone(scenes: RaggedImages, form: Any) -> None:
    task = Segmentation()
    entries = task._entries(outputs(task, scenes, perturbed(scenes, 2)), scenes, form)
    scores = Scored(scenes.truth, entries, form).images()
    for index, image in enumerate(scenes.truth["images"]):
        own = {
            "images": [image],
            "annotations": [a for a in scenes.truth["annotations"] if a["image_id"] == image["id"]],
            "categories": scenes.truth["categories"],
        }
        alone = Scored(own, [e for e in entries if e["image_id"] == image["id"]], form).average()
        assert scores[index] == pytest.approx(alone[""], abs=1e-6)
    assert 5 < scores.mean() < 95
    nothing = {**scenes.truth, "annotations": []}
    assert np.isnan(Scored(nothing, entries, form).images()).all()


def test_run_length_codes_are_read_back() -> None:
    masks = torch.rand(4, 9, 7, generator=torch.Generator().manual_seed(0)) > 0.5
    for mask, code in zip(masks, run_length(masks), strict=True):
        assert np.array_equal(coco_mask.decode(code), mask.numpy())


def test_a_record_of_a_detector_has_no_figures_of_a_classifier() -> None:
    figures = dict.fromkeys([f"ap_box{s}" for s in FIGURES] + ["fp_ap_box", "drop_box", "fidelity_box"], 1.0)
    record = DetectionMetrics(**figures, n_eval=3)
    plain = record.model_dump()
    assert "top1" not in plain
    assert plain["n_eval"] == 3
    assert DetectionMetrics(**plain) == record
    assert "ap_box" not in Metrics.model_fields


def test_tasks() -> None:
    assert list(TASKS) == ["classification", "detection", "features", "segmentation"]
    assert {name: TASKS[name].primary for name in TASKS} == {
        "classification": "top1", "detection": "ap_box", "features": "cosine", "segmentation": "ap_mask",
    }  # fmt: skip
