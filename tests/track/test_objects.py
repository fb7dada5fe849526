"""Objects of both networks in W&B's own overlays, read back from the files of an offline run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.track.runs import execute, make_config, offline_runs, read_back
from vitq.config import signature
from vitq.data import RaggedImages
from vitq.store import Store
from vitq.tasks.coco_scores import run_length
from vitq.tasks.samples import LEAST, SHOWN, samples
from vitq.tasks.task import Outputs

SIDES = np.array([[20, 32]] * 8, dtype=np.int64)
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}]


def scenes() -> RaggedImages:
    """Eight images of 32x20 pixels that were twice as large, each of one gray."""
    pixels = np.concatenate([np.full(3 * 20 * 32, 20 * index, dtype=np.uint8) for index in range(8)])
    truth = {"images": [{"id": 100 + index} for index in range(8)], "annotations": [], "categories": CATEGORIES}
    return RaggedImages(pixels, SIDES, SIDES * 2, truth, (0.5,) * 3, (0.5,) * 3, "abc")


def outputs(score: float, label: int, masked: bool) -> Outputs:
    """Two objects in image 0, of which the second is too unsure to be shown, and one in image 7."""
    masks = torch.zeros(3, 40, 64, dtype=torch.bool)
    masks[:, 4:12, 8:24] = True
    codes = [np.frombuffer(code["counts"], np.uint8) for code in run_length(masks)] if masked else []
    return {
        "image": torch.tensor([0, 0, 7]),
        "box": torch.tensor([[8.0, 4.0, 24.0, 12.0]] * 3),
        "score": torch.tensor([score, LEAST / 2, score]),
        "label": torch.tensor([label, 0, label]),
        "mask": torch.from_numpy(np.concatenate([np.zeros(0, np.uint8), *codes])),
        "mask_end": torch.tensor([len(code) for code in codes], dtype=torch.int64).cumsum(0),
    }


@pytest.mark.parametrize("masked", [True, False])
def test_boxes_and_masks_of_both_networks_read_back(tmp_path: Path, masked: bool) -> None:
    pytest.importorskip("pycocotools")
    config = make_config(tmp_path)
    found = {"full": outputs(0.9, 1, masked), "quantized": outputs(0.5, 0, masked)}
    Store(config.runs_dir).run(signature(config)).write_samples(samples(found, scenes()))
    execute(config)
    summary = read_back(config)["summary"]
    shown = sorted(key for key in summary if key.startswith("objects/"))
    assert len(shown) == SHOWN
    assert (shown[0], shown[-1]) == ("objects/100", "objects/107")
    (folder,) = offline_runs(config)
    entry = summary["objects/100"]
    assert (entry["_type"], entry["count"]) == ("images/separated", 2)
    assert entry["captions"] == ["full precision", "quantized"]
    with Image.open(folder / "files" / entry["filenames"][0]) as picture:
        assert picture.size == (64, 40)
    for position, (label, name, score) in enumerate([(2, "dog", 0.9), (1, "cat", 0.5)]):
        (box,) = _json(folder, entry["all_boxes"][position]["objects"]["path"])["box_data"]
        assert box["position"] == {"minX": 8, "maxX": 24, "minY": 4, "maxY": 12}
        assert (box["class_id"], box["domain"], box["box_caption"]) == (label, "pixel", f"{name} {score:.2f}")
        assert box["scores"] == {"score": pytest.approx(score)}
        if masked:
            with Image.open(folder / "files" / entry["all_masks"][position]["objects"]["path"]) as mask:
                classes = np.array(mask)
            expected = np.zeros((40, 64))
            expected[4:12, 8:24] = label
            assert (classes == expected).all()
    assert ("all_masks" in entry) == masked
    empty = summary["objects/103"]  # an image without objects
    assert _json(folder, empty["all_boxes"][0]["objects"]["path"])["box_data"] == []


def _json(folder: Path, path: str) -> Any:
    return json.loads((folder / "files" / path).read_text())
