"""Which images of a split are used: those that calibrate, and those that are scored."""

from __future__ import annotations

import numpy as np

from vitq.data.choose import choose
from vitq.data.source import Source, StreamedSource
from vitq.errors import DataError

# A stream is read from its start, so its calibration images come from its first WINDOW × size (shards are shuffled
# when they are written): 1.28 million images are not decoded to choose 32 of them.
WINDOW = 64


# Of the held-out images, which are the same for all runs.
_HELD_OUT_SEED = 0


def calibration_indices(
    source: Source, size: int, seed: int, balanced: bool, held_out: int | None = None
) -> np.ndarray:
    """Positions of the images that calibrate, int64 (size,). Raises DataError when there are fewer.

    held_out: `data.held_out`, how many images of the split never calibrate.
    """
    labels = _labels(source, size)
    if held_out is None:
        return choose(labels, size, seed, balanced)
    left = np.setdiff1d(np.arange(len(labels)), held_out_indices(source, held_out))
    chosen: np.ndarray = left[choose(labels[left], size, seed, balanced)]
    return chosen


def held_out_indices(source: Source, count: int) -> np.ndarray:
    """Positions of the images of a calibration split that are scored and never calibrate, int64 (count,), ascending.

    Raises DataError when the split has fewer.
    """
    try:
        return np.sort(choose(_labels(source, count), count, _HELD_OUT_SEED, balanced=True))
    except DataError as error:
        text = f"data.held_out={count} exceeds the {len(source)} images of the calibration split"
        raise DataError(text, "data.held_out", count) from error


def _labels(source: Source, size: int) -> np.ndarray:
    return source.labels[: WINDOW * size] if isinstance(source, StreamedSource) else source.labels


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
