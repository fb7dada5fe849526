"""Which images of a split are used: those that calibrate, chosen by seed, and those that are scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vitq.data.scenes import SceneSource
from vitq.data.source import Source, StreamedSource
from vitq.errors import DataError, shortened

# A stream is read from its start, so its calibration images come from its first WINDOW × size (shards are shuffled
# when they are written): 1.28 million images are not decoded to choose 32 of them.
WINDOW = 64
_LISTED = 1000  # ids that an error carries
_HELD_OUT_SEED = 0  # of the held-out images, which are the same for all runs


def choose(labels: np.ndarray, size: int, seed: int, balanced: bool) -> np.ndarray:
    """Positions of `size` different images, int64, in the (random) order in which they are fed.

    labels: int64 (N,); -1 where a split does not have its labels. balanced: classes take turns, one image each in a
    random order of classes, until `size` are chosen; so 32 images of 1,000 classes are 32 classes, and class counts
    differ by at most one unless a class runs out. The first k of a choice of n are not the choice of k.
    Raises DataError when the split has fewer than `size` images.
    """
    if size > len(labels):
        text = f"calib.size={size} exceeds the {len(labels)} images of the calibration split"
        raise DataError(text, "calib.size", size)
    rng = np.random.default_rng([seed, 0x5EED])
    order = rng.permutation(len(labels))
    if not balanced:
        return order[:size]
    shuffled = labels[order]
    # Turn of an image: how many of its class come before it in the shuffled order.
    by_class = np.argsort(shuffled, kind="stable")
    _, first, counts = np.unique(shuffled[by_class], return_index=True, return_counts=True)
    turn = np.empty(len(labels), dtype=np.int64)
    turn[by_class] = np.arange(len(labels)) - np.repeat(first, counts)
    chosen = order[np.argsort(turn, kind="stable")[:size]]
    return rng.permutation(chosen)


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


def indices_of(source: Source, ids: Sequence[int]) -> np.ndarray:
    """Positions of the images with these numbers, `calib.ids`, int64, in their order.

    Raises DataError: data whose images have no numbers, or numbers that are of no image.
    """
    if not isinstance(source, SceneSource):
        text = "calib.ids names images by the numbers that COCO's format gives them, which this data has none of"
        raise DataError(f"{text}; set it to null: the seed chooses then", "calib.ids", list(ids))
    position = {int(number): index for index, number in enumerate(source.ids)}
    strange = [number for number in ids if number not in position]
    if strange:
        names = ", ".join(map(str, strange))
        known = source.ids.tolist()
        text = (
            f"calib.ids: {names} are of no image of the calibration split (data.calib_split), which has "
            f"{shortened(known, 4)}; name images of that split, or the split that has them"
        )
        raise DataError(text, "calib.ids", strange, known if len(known) <= _LISTED else ())
    return np.array([position[number] for number in ids], dtype=np.int64)


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
