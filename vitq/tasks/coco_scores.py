"""Average precision of detections, computed by pycocotools, as every published figure is."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from pycocotools.coco import COCO

Form = Literal["bbox", "segm"]
# The figures of COCO's summary that are kept, in its order.
FIGURES = ("", "50", "75", "_small", "_medium", "_large")
INSTALL = "pip install 'vitq[detection]'"


def available() -> bool:
    """Whether pycocotools is installed."""
    from importlib.util import find_spec

    return find_spec("pycocotools") is not None


class Scored:
    """The objects that a network found, matched with a truth: average precision of all images together, and of each.

    truth: COCO's `images`, `annotations`, `categories`. results: COCO's result entries, `image_id`, `category_id`,
    `score`, and `bbox` or `segmentation`. They are matched once, by pycocotools.
    """

    def __init__(self, truth: Mapping[str, Any], results: Sequence[dict[str, Any]], form: Form):
        self._truth, self._empty = truth, not results
        self._evaluation = _matched(truth, results or [_nowhere(truth, form)], form) if truth["annotations"] else None

    def average(self) -> dict[str, float]:
        """AP, percent: `` (mean over IoU 0.5 to 0.95), `50`, `75`, `_small`, `_medium`, `_large`.

        NaN where the truth has no object of that size.
        """
        if self._evaluation is None:
            return dict.fromkeys(FIGURES, math.nan)
        with contextlib.redirect_stdout(io.StringIO()):
            self._evaluation.accumulate()
            self._evaluation.summarize()
        figures = self._evaluation.stats[: len(FIGURES)]
        percent = {name: math.nan if v < 0 else 100 * float(v) for name, v in zip(FIGURES, figures, strict=True)}
        return {name: v if math.isnan(v) or not self._empty else 0.0 for name, v in percent.items()}

    def images(self) -> np.ndarray:
        """float64 (N,), percent: AP of each image alone, the mean over its classes and IoU 0.5 to 0.95.

        NaN for an image without objects. Precision is interpolated at pycocotools' own 101 recalls.
        """
        scores = np.full(len(self._truth["images"]), math.nan)
        if self._evaluation is None:
            return scores
        position = {image["id"]: index for index, image in enumerate(self._truth["images"])}
        parameters = self._evaluation.params
        parts: dict[int, list[float]] = {}
        for entry in self._evaluation.evalImgs:
            if entry is None or entry["aRng"] != parameters.areaRng[0]:
                continue
            objects = int((np.asarray(entry["gtIgnore"]) == 0).sum())
            if objects:
                value = _single(entry, objects, parameters.recThrs)
                parts.setdefault(position[entry["image_id"]], []).append(value)
        for index, values in parts.items():
            scores[index] = 100 * float(np.mean(values))
        return scores


def _single(entry: Mapping[str, Any], objects: int, recalls: np.ndarray) -> float:
    """AP of one class in one image, 0 to 1."""
    order = np.argsort(-np.asarray(entry["dtScores"]), kind="mergesort")
    matched = np.asarray(entry["dtMatches"])[:, order] > 0
    counted = np.asarray(entry["dtIgnore"])[:, order] == 0
    right, wrong = (matched & counted).cumsum(axis=1), (~matched & counted).cumsum(axis=1)
    recall, precision = right / objects, right / np.maximum(right + wrong, 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = 0.0
    for row, values in zip(recall, precision, strict=True):
        at = np.searchsorted(row, recalls, side="left")
        total += float(np.append(values, 0.0)[at].mean())
    return total / len(recall)


def _matched(truth: Mapping[str, Any], results: Sequence[dict[str, Any]], form: Form) -> Any:
    """pycocotools' evaluation with the objects matched."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        known = _index(truth)
        evaluation = COCOeval(known, known.loadRes([dict(entry) for entry in results]), form)
        evaluation.evaluate()
    return evaluation


def _nowhere(truth: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """A detection without area: pycocotools cannot read an empty list."""
    image = truth["images"][0]
    entry = {"image_id": image["id"], "category_id": truth["categories"][0]["id"], "score": 0.0}
    if form == "bbox":
        return entry | {"bbox": [0.0, 0.0, 0.0, 0.0]}
    return entry | {"segmentation": run_length(torch.zeros(1, image["height"], image["width"], dtype=torch.bool))[0]}


def _index(truth: Mapping[str, Any]) -> COCO:
    from pycocotools.coco import COCO

    known = COCO()
    # Copies: it writes into what it is given.
    known.dataset = {key: [dict(entry) for entry in value] for key, value in truth.items()}
    known.createIndex()
    return known


def run_length(masks: Tensor) -> list[dict[str, Any]]:
    """COCO's compressed run-length code of bool masks (D, H, W): `size` and `counts` (bytes) of each."""
    from pycocotools import mask

    if not len(masks):
        return []
    columns = np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8))
    return list(mask.encode(columns))


def pixels(code: bytes, height: int, width: int) -> np.ndarray:
    """bool (height, width) of a mask's `counts`."""
    from pycocotools import mask

    decoded: np.ndarray = mask.decode({"size": [height, width], "counts": code}).astype(bool)
    return decoded


def area(code: Mapping[str, Any]) -> int:
    """Pixels of a mask, from its code."""
    from pycocotools import mask

    return int(mask.area(code))
