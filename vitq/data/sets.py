"""The image sets of a run, decoded once and kept on disk as uint8."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitq.config import DataConfig, ModelConfig, RunConfig
from vitq.data.cache import locked, published_folder
from vitq.data.choose import calibration_indices, evaluation_indices, held_out_indices, indices_of
from vitq.data.decode import decode
from vitq.data.images import ImageSet
from vitq.data.location import SCENES
from vitq.data.opening import open_source
from vitq.data.ragged import RaggedImages
from vitq.data.ragged_sets import ragged_set
from vitq.data.scenes import SceneSource
from vitq.data.source import Source
from vitq.errors import DataError
from vitq.progress import Progress

# Raised when decoding or choosing changes, so that old cache entries are not taken for new ones.
VERSION = 1
# Images among which neighbours are looked for.
_NEIGHBOURS = 1024


@dataclass(frozen=True)
class _Order:
    """What to decode.

    choice: `{"first": N|null}`, `{"spread": N}`, `{"held_out": N}`, `{"ids": […]}`, `{"size", "seed", "balanced"}`
    or `{"neighbours": N}`, with `held_out` where images of its split are held out. augment: seed or None (clean).
    """

    split: str
    choice: dict[str, Any]
    augment: int | None = None


def eval_set(config: RunConfig, progress: Progress) -> ImageSet:
    """Images that are scored: the evaluation split, `data.eval_limit` of it, or `data.held_out` of the calibration
    split, in the dataset's order.

    The first call decodes, later calls (of any process) map the result. Raises DataError.
    """
    data = config.data
    order = _Order(data.scored_split, _scored(data))
    return _image_set(config.model, data, order, config.cache_dir, progress, _planned(data, 1))


def _scored(data: DataConfig) -> dict[str, Any]:
    """Which images of `data.scored_split` are scored, as `_Order` says it."""
    spread = data.eval_limit is not None and data.eval_choice == "spread"
    return {"held_out": data.held_out} if data.held_out else {"spread" if spread else "first": data.eval_limit}


def _calibrating(config: RunConfig) -> dict[str, Any]:
    """Which images of `data.calib_split` calibrate."""
    calib, held_out = config.calib, config.data.held_out
    if calib.ids is not None:
        return {"ids": list(calib.ids)}
    choice = {"size": calib.size, "seed": config.seed, "balanced": calib.balanced}
    return choice | ({"held_out": held_out} if held_out else {})


def scored_scenes(config: RunConfig, progress: Progress) -> RaggedImages:
    """`eval_set` of data whose images hold objects."""
    data = config.data
    return _scenes(config.model, data, data.scored_split, _scored(data), config.cache_dir, progress, 1)


def used_scenes(config: RunConfig) -> list[tuple[SceneSource, np.ndarray]]:
    """The split and the positions of the images that are scored, then of those that calibrate. Raises DataError."""
    data = config.data
    orders = [_Order(data.scored_split, _scored(data))]
    if config.method.quantizes:
        orders.append(_Order(data.calib_split, _calibrating(config)))
    opened = [(open_source(data, order.split, config.cache_dir), order) for order in orders]
    return [(source, _indices(source, order)) for source, order in opened if isinstance(source, SceneSource)]


def scenes_of(
    model: ModelConfig, data: DataConfig, split: str, cache_dir: str | Path, progress: Progress
) -> RaggedImages:
    """`split_set` of data whose images hold objects."""
    return _scenes(model, data, split, {"first": None}, cache_dir, progress, None)


def _scenes(
    model: ModelConfig,
    data: DataConfig,
    split: str,
    choice: dict[str, Any],
    cache_dir: str | Path,
    progress: Progress,
    planned: int | None,
) -> RaggedImages:
    def source() -> SceneSource:
        found = open_source(data, split, cache_dir)
        assert isinstance(found, SceneSource)
        return found

    content = (None if planned is None else _planned(data, planned)) or source().fingerprint
    return ragged_set(
        model, data, split, content, choice, source, lambda s: _indices(s, _Order(split, choice)), cache_dir, progress
    )


def calibration_scenes(config: RunConfig, progress: Progress) -> RaggedImages:
    """`calibration_set` of data whose images hold objects."""
    choice = _calibrating(config)
    return _scenes(config.model, config.data, config.data.calib_split, choice, config.cache_dir, progress, 0)


def calibrating(config: RunConfig, progress: Progress) -> ImageSet | RaggedImages:
    """The calibration images of any data."""
    return (calibration_scenes if config.data.dataset in SCENES else calibration_set)(config, progress)


def calibration_set(config: RunConfig, progress: Progress) -> ImageSet:
    """`calib.size` different images of the calibration split, chosen by `seed`, or `calib.ids`; see `vitq.data.choose`.

    Only these are decoded. Clean evaluation transform, or timm's training augmentation with `calib.augment`, seeded
    image by image. Raises DataError when the split is smaller.
    """
    order = _Order(config.data.calib_split, _calibrating(config), config.seed if config.calib.augment else None)
    return _image_set(config.model, config.data, order, config.cache_dir, progress, _planned(config.data, 0))


def neighbour_set(config: RunConfig, progress: Progress) -> ImageSet:
    """Images whose features those of the scored ones are compared with (task `features`), clean: up to 1,024 of the
    calibration split, classes in turn, never held-out ones; the same whatever calibrates."""
    choice = {"neighbours": _NEIGHBOURS} | ({"held_out": config.data.held_out} if config.data.held_out else {})
    order = _Order(config.data.calib_split, choice)
    return _image_set(config.model, config.data, order, config.cache_dir, progress, _planned(config.data, 0))


def split_set(model: ModelConfig, data: DataConfig, split: str, cache_dir: str | Path, progress: Progress) -> ImageSet:
    """All images of a split, clean evaluation transform, in the dataset's order."""
    return _image_set(model, data, _Order(split, {"first": None}), cache_dir, progress, None)


def _planned(data: DataConfig, which: int) -> str | None:
    """Fingerprint of a split as the plan saw it: 0 calibration, 1 evaluation; None for a config that is not planned."""
    if data.fingerprint is None:
        return None
    parts = data.fingerprint.split("-")
    if len(parts) != 2:
        text = f"data.fingerprint={data.fingerprint!r}: the plan fills it in; leave it null in a config"
        raise DataError(text, "data.fingerprint", data.fingerprint)
    return parts[which]


def _image_set(
    model: ModelConfig, data: DataConfig, order: _Order, cache_dir: str | Path, progress: Progress, planned: str | None
) -> ImageSet:
    content = planned or open_source(data, order.split, cache_dir).fingerprint
    key = _key(model, order, content, data.white)
    path = Path(cache_dir).expanduser() / "images" / key
    arrays = _mapped(path)
    if arrays is None:
        with locked(path):
            if _mapped(path) is None:  # another process may have made it while this one waited
                _make(path, model, data, order, content, cache_dir, progress)
            arrays = _mapped(path)
    if arrays is None:
        raise DataError(f"cache entry {str(path)!r} vanished while it was made; is another process clearing cache_dir?")
    channels = model.image_shape[0]
    return ImageSet(*arrays, (data.mean or model.mean)[:channels], (data.std or model.std)[:channels], key)


def _key(model: ModelConfig, order: _Order, content: str, white: int | None) -> str:
    plain = {
        "version": VERSION,
        "content": content,
        "choice": order.choice,
        "augment": order.augment,
        "input_size": model.input_size,
        "interpolation": model.interpolation,
        "crop_pct": None if order.augment is not None else model.crop_pct,
    }
    if model.image_shape[0] != 3:
        plain["channels"] = model.image_shape[0]
    if white not in (None, 65535):
        plain["white"] = white
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]


def _mapped(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Pixels (read-only map) and labels of an entry; None where it is absent or cut short, so that it is made anew."""
    try:
        pixels = np.load(path / "images.npy", mmap_mode="r")
        labels = np.load(path / "labels.npy")
    except (OSError, ValueError, EOFError):
        return None
    return (pixels, labels) if len(pixels) == len(labels) else None


def _make(
    path: Path,
    model: ModelConfig,
    data: DataConfig,
    order: _Order,
    content: str,
    cache_dir: str | Path,
    progress: Progress,
) -> None:
    source = open_source(data, order.split, cache_dir)
    if source.fingerprint != content:
        text = (
            f"the images of split {order.split!r} below {data.root!r} are not those of the plan (names, sizes or "
            "labels differ); plan the run again, or restore the images"
        )
        raise DataError(text, "data.fingerprint", source.fingerprint, [content])
    indices = _indices(source, order)
    with published_folder(path) as part:
        labels = decode(source, indices, model, order.augment, part / "images.npy", data.workers, progress, order.split)
        low, high, classes = labels.min(), labels.max(), data.num_classes
        if low < 0 or high >= classes:
            text = f"labels of split {order.split!r} run from {low} to {high}, but data.num_classes={classes}"
            raise DataError(f"{text}; set data.class_map or data.num_classes", "data.num_classes", classes)
        np.save(part / "labels.npy", labels)


def _indices(source: Source, order: _Order) -> np.ndarray:
    choice = order.choice
    if "ids" in choice:
        return indices_of(source, choice["ids"])
    if "size" in choice:
        return calibration_indices(source, choice["size"], choice["seed"], choice["balanced"], choice.get("held_out"))
    if "neighbours" in choice:
        held_out = choice.get("held_out")
        size = min(choice["neighbours"], len(source) - (held_out or 0))
        return calibration_indices(source, size, 0, balanced=True, held_out=held_out)
    if "held_out" in choice:
        return held_out_indices(source, choice["held_out"])
    return evaluation_indices(source, choice.get("first", choice.get("spread")), spread="spread" in choice)
