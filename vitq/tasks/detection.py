"""Object detection and instance segmentation: objects become COCO's entries, average precision the figures."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch

from vitq.config import RunConfig
from vitq.data import Images, RaggedImages, scored_scenes
from vitq.data.location import SCENES, form
from vitq.errors import DataError, Problem
from vitq.models.detection.outputs import Detections
from vitq.models.detection.paste import paste
from vitq.progress import Progress
from vitq.store.metrics import DetectionMetrics
from vitq.tasks.coco_scores import INSTALL, Form, Scored, area, available, run_length
from vitq.tasks.samples import codes_of, samples
from vitq.tasks.task import TASKS, Outputs, Task

# Objects of the full-precision network that count as true where two networks are compared without labels.
SURE = 0.5
# Largest difference of a score between two executions of one model.
_CLOSE = 1e-3


@TASKS.register("detection")
class Detection(Task):
    """Boxes and classes."""

    primary = "ap_box"
    forms: ClassVar[dict[str, Form]] = {"box": "bbox"}
    models: ClassVar[tuple[str, ...]] = ("mask_rcnn", "cascade_mask_rcnn", "yolos")

    def __init__(self) -> None:
        self._known: deque[tuple[Outputs, RaggedImages, Form, tuple[dict[str, float], np.ndarray]]] = deque(maxlen=4)

    def images(self, config: RunConfig, progress: Progress) -> RaggedImages:
        return scored_scenes(config, progress)

    def keep(self, given: Sequence[Detections], images: Images, start: int) -> Outputs:
        """In pixels of the images as they were before they were resized.

        image: int64 (D,), position in the set. box: float32 (D, 4), x1 y1 x2 y2. score: float32 (D,). label: int64
        (D,). mask: uint8, the masks' codes one after the other (vitq.tasks.coco_scores), empty where only boxes count;
        mask_end: int64 (D,), where each code ends.
        """
        scenes = cast(RaggedImages, images)
        parts = [self._of_image(detections, scenes, start + index) for index, detections in enumerate(given)]
        return _joined(parts)

    def _of_image(self, detections: Detections, scenes: RaggedImages, index: int) -> Outputs:
        height, width = scenes.originals[index].tolist()
        scale = torch.from_numpy(scenes.originals[index] / scenes.shapes[index]).float().flip(0).repeat(2)
        boxes = detections.boxes.float().cpu() * scale
        codes = []
        if "mask" in self.forms:
            masks = paste(detections.masks.float().cpu(), boxes, height, width)
            codes = [np.frombuffer(code["counts"], dtype=np.uint8) for code in run_length(masks)]
        return {
            "image": torch.full((len(boxes),), index),
            "box": boxes,
            "score": detections.scores.float().cpu(),
            "label": detections.labels.cpu(),
            "mask": torch.from_numpy(np.concatenate([np.zeros(0, np.uint8), *codes])),
            "mask_end": torch.tensor([len(code) for code in codes], dtype=torch.int64).cumsum(0),
        }

    def join(self, parts: Sequence[Outputs], images: Images, stage: str) -> Outputs:
        outputs = _joined(parts)
        if not (outputs["score"].isfinite().all() and outputs["box"].isfinite().all()):
            raise ValueError(
                Problem(f"{stage}: the model gives NaN or infinity for boxes or scores", "score", where=stage)
            )
        return outputs

    def metrics(self, quantized: Outputs, reference: Outputs, images: Images) -> DetectionMetrics:
        scenes = cast(RaggedImages, images)
        figures: dict[str, float | None] = {}
        for name, form_ in self.forms.items():
            own = self._judged(quantized, scenes, form_)[0]
            full = self._judged(reference, scenes, form_)[0][""]
            entries = self._entries(quantized, scenes, form_)
            believed = Scored(self._believed(reference, scenes), entries, form_).average()
            figures |= {f"ap_{name}{suffix}": value for suffix, value in own.items()}
            figures |= {f"fp_ap_{name}": full, f"drop_{name}": full - own[""], f"fidelity_{name}": believed[""]}
        plain = {key: None if value is None or math.isnan(value) else value for key, value in figures.items()}
        return DetectionMetrics(**cast(Any, plain), n_eval=len(images))

    def predictions(self, outputs: Outputs, images: Images) -> dict[str, np.ndarray]:
        """The arrays of `keep`; `id`, int64 (N,): the data set's number of each image; `image_ap_box`, `image_ap_mask`,
        float64 (N,): each image's own average precision, percent."""
        scenes = cast(RaggedImages, images)
        ids = np.array([image["id"] for image in scenes.truth["images"]], dtype=np.int64)
        scores = {f"image_ap_{name}": self._judged(outputs, scenes, form_)[1] for name, form_ in self.forms.items()}
        return {name: value.numpy() for name, value in outputs.items()} | {"id": ids} | scores

    def samples(self, quantized: Outputs, reference: Outputs, images: Images) -> dict[str, np.ndarray]:
        return samples({"full": reference, "quantized": quantized}, cast(RaggedImages, images))

    def differs(self, now: Mapping[str, np.ndarray], recorded: Mapping[str, np.ndarray]) -> str | None:
        if len(now["image"]) == len(recorded["image"]) and (now["label"] == recorded["label"]).all():
            gap = np.abs(now["score"] - recorded["score"]).max(initial=0)
            return None if gap <= _CLOSE else f"its scores differ from the record's by up to {gap:.3g}"
        return f"it finds {len(now['image'])} objects, its record {len(recorded['image'])}, or others of them"

    def problems(self, config: RunConfig) -> list[Problem]:
        problems = []
        try:
            if form(config.data) not in SCENES:
                text = (
                    f"task={config.task}: data.dataset={config.data.dataset!r} has no objects in its images; valid: "
                    f"{', '.join(SCENES)} (data=coco data.root=…, data=digit_scenes)"
                )
                problems.append(Problem(text, "data.dataset", config.data.dataset, SCENES))
        except DataError as error:
            problems += error.problems
        if config.model.name not in self.models:
            what = "objects" if config.model.name not in Detection.models else "masks"
            text = (
                f"task={config.task}: model.name={config.model.name!r} finds no {what}; valid: {', '.join(self.models)}"
            )
            problems.append(Problem(text, "model.name", config.model.name, self.models))
        if not available():
            text = f"task={config.task}: objects are scored by pycocotools, which is not installed; {INSTALL}"
            problems.append(Problem(text, "task", config.task, action=INSTALL))
        if config.calib.augment:
            text = "calib.augment=true: training images of detectors are not augmented here; set it to false"
            problems.append(Problem(text, "calib.augment", True, [False]))
        return problems

    def _judged(self, outputs: Outputs, scenes: RaggedImages, form_: Form) -> tuple[dict[str, float], np.ndarray]:
        """Average precision of all images, and of each. Figures and record of a run need the same ones: the last few
        are kept."""
        for known, images, name, judged in self._known:
            if known is outputs and images is scenes and name == form_:
                return judged
        scored = Scored(scenes.truth, self._entries(outputs, scenes, form_), form_)
        self._known.append((outputs, scenes, form_, (scored.average(), scored.images())))
        return self._known[-1][-1]

    def _entries(self, outputs: Outputs, scenes: RaggedImages, form_: Form) -> list[dict[str, Any]]:
        """COCO's result entries."""
        images = scenes.truth["images"]
        categories = [category["id"] for category in scenes.truth["categories"]]
        codes = codes_of(outputs) if form_ == "segm" else None
        entries = []
        rows = zip(*(outputs[key].tolist() for key in ("image", "label", "score", "box")), strict=True)
        for number, (image, label, score, (x1, y1, x2, y2)) in enumerate(rows):
            entry = {"image_id": images[image]["id"], "category_id": categories[label], "score": score}
            if codes is None:
                entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            else:
                height, width = scenes.originals[image].tolist()
                entry["segmentation"] = {"size": [height, width], "counts": codes[number]}
            entries.append(entry)
        return entries

    def _believed(self, reference: Outputs, scenes: RaggedImages) -> dict[str, Any]:
        """What the full-precision network is sure of, as a truth."""
        sure = (reference["score"] >= SURE).tolist()
        entries = self._entries(reference, scenes, "bbox")
        if "mask" in self.forms:
            masks = self._entries(reference, scenes, "segm")
            entries = [box | {"segmentation": mask["segmentation"]} for box, mask in zip(entries, masks, strict=True)]
        annotations: list[dict[str, Any]] = []
        for entry in (entry for entry, yes in zip(entries, sure, strict=True) if yes):
            pixels = entry["bbox"][2] * entry["bbox"][3]
            if code := entry.get("segmentation"):
                pixels = area(code)
            annotations.append(entry | {"id": len(annotations) + 1, "area": pixels, "iscrowd": 0})
        return {**scenes.truth, "annotations": annotations}


@TASKS.register("segmentation")
class Segmentation(Detection):
    """Boxes, classes and masks."""

    primary = "ap_mask"
    forms: ClassVar[dict[str, Form]] = {"box": "bbox", "mask": "segm"}
    models: ClassVar[tuple[str, ...]] = ("mask_rcnn", "cascade_mask_rcnn")


def _joined(parts: Sequence[Outputs]) -> Outputs:
    """Parts behind each other; the ends of codes count from the first one's start."""
    keys = ("image", "box", "score", "label", "mask")
    joined = {key: torch.cat([part[key] for part in parts]) for key in keys}
    lengths = torch.tensor([0, *(len(part["mask"]) for part in parts[:-1])]).cumsum(0).tolist()
    ends = [part["mask_end"] + length for part, length in zip(parts, lengths, strict=True)]
    return joined | {"mask_end": torch.cat(ends)}
