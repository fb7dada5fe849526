"""The images of a detector's run, decoded and resized once, kept on disk one after the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vitq.config import DataConfig, ModelConfig
from vitq.data.cache import locked, published_folder
from vitq.data.ragged import RaggedImages
from vitq.data.resize import resize
from vitq.data.scenes import SceneSource
from vitq.errors import DataError
from vitq.progress import Progress

# Raised when decoding changes, so that old cache entries are not taken for new ones.
VERSION = 1
# Images that wait decoded until those before them are written.
_AHEAD = 64


def ragged_set(
    model: ModelConfig,
    data: DataConfig,
    split: str,
    content: str,
    choice: dict[str, Any],
    open_split: Callable[[], SceneSource],
    choose: Callable[[SceneSource], np.ndarray],
    cache_dir: str | Path,
    progress: Progress,
) -> RaggedImages:
    """Images of one split. content: its fingerprint. choice: what says which images `choose` picks.

    Raises DataError for images that are not those of `content`, or cannot be decoded.
    """
    plain = {"version": VERSION, "content": content, "choice": choice, "sides": [model.short_side, model.long_side]}
    if data.white not in (None, 65535):
        plain["white"] = data.white
    key = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]
    path = Path(cache_dir).expanduser() / "images" / f"ragged-{key}"
    mapped = _mapped(path)
    if mapped is None:
        with locked(path):
            mapped = _mapped(path)  # another process may have made it while this one waited
            if mapped is None:
                source = open_split()
                if source.fingerprint != content:
                    raise DataError(
                        f"the images or objects of split {split!r} below {data.root!r} are not those of the plan; plan "
                        "the run again, or restore them",
                        "data.fingerprint",
                        source.fingerprint,
                        [content],
                    )
                _make(path, source, choose(source), model, data.workers, progress, split)
                mapped = _mapped(path)
    if mapped is None:
        raise DataError(f"cache entry {str(path)!r} vanished while it was made; is another process clearing cache_dir?")
    pixels, sizes, truth = mapped
    return RaggedImages(pixels, sizes[0], sizes[1], truth, data.mean or model.mean, data.std or model.std, key)


def _mapped(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]] | None:
    """Pixels (read-only map), sizes (2, N, 2) and objects; None where the entry is absent or cut short."""
    try:
        sizes = np.load(path / "sizes.npy")
        pixels = np.memmap(path / "pixels.bin", dtype=np.uint8, mode="r")
        truth = json.loads((path / "truth.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, EOFError):
        return None
    whole = len(pixels) == 3 * int(sizes[0].prod(axis=1).sum()) and len(truth["images"]) == sizes.shape[1]
    return (pixels, sizes, truth) if whole else None


def _make(
    path: Path,
    source: SceneSource,
    indices: np.ndarray,
    model: ModelConfig,
    workers: int,
    progress: Progress,
    split: str,
) -> None:
    progress.stage(f"decode {split}", len(indices))
    shapes, originals = [], []

    def decoded(index: int) -> tuple[np.ndarray, tuple[int, int]]:
        image = source.image(int(index))
        return resize(image, model), (image.height, image.width)

    with published_folder(path) as part, ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            with (part / "pixels.bin").open("wb") as file:
                for start in range(0, len(indices), _AHEAD):
                    for pixels, original in pool.map(decoded, indices[start : start + _AHEAD]):
                        file.write(pixels.tobytes())
                        shapes.append(pixels.shape[1:])
                        originals.append(original)
                        progress.advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        np.save(part / "sizes.npy", np.array([shapes, originals], dtype=np.int64))
        (part / "truth.json").write_text(json.dumps(source.truth(indices)), encoding="utf-8")
