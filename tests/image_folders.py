"""What the tests of images share: names, a type, one written image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from vitq.config import RunConfig

CLASSES = ("n10", "n2", "n1")  # natural order differs from the alphabet's
Make = Callable[..., RunConfig]


def write_image(path: Path, seed: int, size: tuple[int, int] = (40, 36)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
