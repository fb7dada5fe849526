"""The embedded data: scikit-learn's 1,797 handwritten digits, real 8x8 scans that ship inside that package.

Splits are fixed and need no random number. Within each class, in the package's order, every third image is `test`; the
others are `train`; every second image of `train` is `calib`. So calibration images are training images (as in the
papers) and never test images.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitq.errors import DataError, unknown

if TYPE_CHECKING:
    from PIL.Image import Image

SPLITS = ("train", "calib", "test")
NUM_CLASSES = 10
SIZE = 32


@lru_cache(maxsize=1)
def _scans() -> tuple[np.ndarray, np.ndarray]:
    """Scans, uint8 (N, 8, 8) of 0 to 16, and their labels, int64 (N,), as `sklearn.datasets.load_digits` reads them.

    From the package's own file: importing the package takes more than a second of every plan and worker.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("the embedded digits are a file of scikit-learn, which is not installed: pip install vitq")
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", np.int64, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1]


def indices(split: str) -> np.ndarray:
    """Positions of a split's images in the package, ascending, int64 (N,). Raises DataError for an unknown split."""
    if split not in SPLITS:
        action = "Set data.calib_split or data.eval_split."
        raise DataError(unknown("split of the digits", split, SPLITS, action))
    labels = _scans()[1]
    rank = np.empty(len(labels), dtype=np.int64)
    for label in range(NUM_CLASSES):
        members = labels == label
        rank[members] = np.arange(int(members.sum()))
    # Ranks 0 1 2 3 4 5 …: 2, 5, 8 … are test; of the others 0, 3, 6 … are calib as well.
    if split == "test":
        return np.flatnonzero(rank % 3 == 2)
    return np.flatnonzero(rank % 3 == 0 if split == "calib" else rank % 3 != 2)


def fingerprint(split: str) -> str:
    """16 hex digits of sha256 over the split's pixels and labels."""
    chosen = indices(split)
    scans, labels = _scans()
    content = hashlib.sha256(scans[chosen].tobytes())
    content.update(labels[chosen].tobytes())
    return content.hexdigest()[:16]


class Digits:
    """One split as a source of images: RGB, 32x32, bicubic from the 8x8 scan, so that two patches see one stroke."""

    def __init__(self, split: str):
        self._indices = indices(split)
        self.labels: np.ndarray = _scans()[1][self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def image(self, index: int) -> Image:
        """PIL image at a position of this split."""
        from PIL import Image

        scan = _scans()[0][self._indices[index]]
        gray = Image.fromarray(np.rint(scan * (255 / 16)).astype(np.uint8), mode="L")
        return gray.resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB")
