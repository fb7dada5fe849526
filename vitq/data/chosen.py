"""Which images of a split are used: those that calibrate, and those that are scored."""

from __future__ import annotations

import numpy as np

from vitq.data.choose import choose
from vitq.data.source import Source, StreamedSource

# A stream is read from its start, so its calibration images come from its first WINDOW × size (shards are shuffled
# when they are written): 1.28 million images are not decoded to choose 32 of them.
WINDOW = 64


def calibration_indices(source: Source, size: int, seed: int, balanced: bool) -> np.ndarray:
    """Positions of the images that calibrate, int64 (size,). Raises DataError when there are fewer."""
    labels = source.labels[: WINDOW * size] if isinstance(source, StreamedSource) else source.labels
    return choose(labels, size, seed, balanced)


def evaluation_indices(source: Source, limit: int | None, spread: bool) -> np.ndarray:
    """Positions of the images that are scored, int64, ascending: all, or `limit` of them.

    spread: evenly over the split sorted by class, so that each class has its share; else the first ones.
    """
    total = len(source)
    count = min(total, limit or total)
    if not spread:
        return np.arange(count)
    by_class = np.argsort(source.labels, kind="stable")
    return np.sort(by_class[np.arange(count) * total // count])
