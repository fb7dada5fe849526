"""The embedded scenes: real handwritten digits of scikit-learn on noisy canvases, two to five on each.

Scene i of a split depends on the split and on i alone. Training and calibration scenes hold training digits, test
scenes the others (vitq.data.digits); calibration scenes are the first ones of training.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vitq.data import digits
from vitq.data.scenes import SceneSource
from vitq.errors import DataError, unknown

if TYPE_CHECKING:
    from PIL.Image import Image

COUNTS = {"train": 1200, "calib": 200, "test": 200}
HEIGHTS, WIDTHS = (96, 112, 128), (128, 144, 160)  # of canvases
OBJECTS = (2, 5)
SIDES = (16, 64)  # of a digit's scan on the canvas
NOISE = 12.0  # standard deviation of the background, of 255
INK = 0.25  # of the brightest ink: from there on a pixel belongs to the digit's mask
OVERLAP = 0.1  # of a scan's square that another one may cover
CATEGORIES = [{"id": digit + 1, "name": str(digit)} for digit in range(digits.NUM_CLASSES)]
# Raised when scenes are drawn otherwise.
VERSION = 1


class Scene(NamedTuple):
    """pixels: uint8 (H, W). boxes: float32 (G, 4), x1 y1 x2 y2. labels: int64 (G,). masks: bool (G, H, W)."""

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


class DigitScenes(SceneSource):
    """One split. Raises DataError for one that is not there."""

    def __init__(self, split: str):
        if split not in COUNTS:
            action = "Set data.calib_split or data.eval_split."
            raise DataError(unknown("split of the digit scenes", split, COUNTS, action))
        self._split = split
        content = f"{VERSION}\0{'train' if split == 'calib' else split}\0{COUNTS[split]}"
        fingerprint = hashlib.sha256(f"{content}\0{digits.fingerprint(_digits_of(split))}".encode()).hexdigest()[:16]
        count = COUNTS[split]
        super().__init__(
            range(count), OBJECTS[0] * count, CATEGORIES, fingerprint, self._image, lambda index: f"scene {index}"
        )

    def truth(self, indices: np.ndarray) -> dict[str, Any]:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in map(int, indices):
            scene = draw(self._split, index)
            height, width = scene.pixels.shape
            images.append({"id": index, "height": height, "width": width})
            for box, label, mask in zip(scene.boxes.tolist(), scene.labels.tolist(), scene.masks, strict=True):
                x1, y1, x2, y2 = box
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index,
                        "category_id": label + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": {"size": [height, width], "counts": run_lengths(mask)},
                    }
                )
        return {"images": images, "annotations": annotations, "categories": self.categories}

    def _image(self, index: int) -> Image:
        from PIL import Image

        return Image.fromarray(draw(self._split, index).pixels).convert("RGB")


def _digits_of(split: str) -> str:
    return "test" if split == "test" else "train"


@lru_cache(maxsize=256)
def draw(split: str, index: int) -> Scene:
    """Scene number `index` of a split."""
    rng = np.random.default_rng([VERSION, 0x5CE7E, int(split == "test"), index])
    height, width = int(rng.choice(HEIGHTS)), int(rng.choice(WIDTHS))
    canvas = rng.normal(24.0, NOISE, (height, width))
    source = digits.Digits(_digits_of(split))
    taken: list[tuple[int, int, int]] = []
    boxes, labels, masks = [], [], []
    for _ in range(int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))):
        number, side = int(rng.integers(len(source))), int(rng.integers(SIDES[0], SIDES[1] + 1))
        corner = _free(rng, height, width, side, taken)
        if corner is None:
            continue
        top, left = corner
        ink = _scan(source, number, side)
        area = canvas[top : top + side, left : left + side]
        np.maximum(area, ink, out=area)
        mask = np.zeros((height, width), dtype=bool)
        mask[top : top + side, left : left + side] = ink >= INK * ink.max()
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        taken.append((top, left, side))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        labels.append(int(source.labels[number]))
        masks.append(mask)
    pixels = canvas.clip(0, 255).round().astype(np.uint8)
    return Scene(pixels, np.array(boxes, np.float32), np.array(labels, np.int64), np.stack(masks))


def _free(
    rng: np.random.Generator, height: int, width: int, side: int, taken: list[tuple[int, int, int]]
) -> tuple[int, int] | None:
    """Upper left corner of a square that covers little of those that are taken; None where twenty tries find none."""
    for _ in range(20):
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        if all(
            _shared(top, side, t, s) * _shared(left, side, x, s) <= OVERLAP * min(side, s) ** 2 for t, x, s in taken
        ):
            return top, left
    return None


def _shared(start: int, length: int, other: int, extent: int) -> int:
    """Length that two intervals share."""
    return max(0, min(start + length, other + extent) - max(start, other))


def _scan(source: digits.Digits, number: int, side: int) -> np.ndarray:
    """float64 (side, side), 0 to 255: the digit, bicubic."""
    from PIL import Image

    image = source.image(number).convert("L").resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float64)


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of a bool (H, W) mask: column by column, background first."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return [0, *runs] if flat[0] else runs
