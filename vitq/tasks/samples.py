"""A few scored images with the objects that several networks found: enough to draw them without the data set."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from vitq.data import RaggedImages
from vitq.tasks.task import Outputs

# Images, evenly spread over the set, and the least score of an object that is kept of them.
SHOWN, LEAST = 6, 0.3
_QUALITY = 90  # of JPEG


def samples(networks: Mapping[str, Outputs], scenes: RaggedImages) -> dict[str, np.ndarray]:
    """Arrays for `RunDir.write_samples`. networks: what each network gave for the whole set, by its name.

    id: int64 (K,), the data set's number of each image. size: int64 (K, 2), height and width. picture: uint8, JPEG
    files one after the other; picture_end: int64 (K,). class_id: int64 (C,), 0 to C − 1; class_name: str (C,).
    NAME.image, .box, .score, .label, .mask, .mask_end: as `Detection.keep` gives them, image 0 to K − 1.
    """
    chosen = np.unique(np.linspace(0, len(scenes) - 1, min(SHOWN, len(scenes))).round().astype(np.int64))
    few = scenes.take(chosen)
    pictures = [_jpeg(few, index) for index in range(len(few))]
    names = [str(category.get("name", category["id"])) for category in scenes.truth["categories"]]
    arrays = {
        "id": np.array([image["id"] for image in few.truth["images"]], dtype=np.int64),
        "size": few.originals,
        "picture": np.frombuffer(b"".join(pictures), dtype=np.uint8),
        "picture_end": np.cumsum([len(picture) for picture in pictures], dtype=np.int64),
        "class_id": np.arange(len(names)),
        "class_name": np.array(names, dtype=np.str_),
    }
    for name, outputs in networks.items():
        arrays |= {f"{name}.{key}": value for key, value in _few(outputs, chosen).items()}
    return arrays


def codes_of(outputs: Mapping[str, np.ndarray] | Outputs) -> list[bytes]:
    """Code of each mask, from `mask` and `mask_end`; none where only boxes count."""
    content, ends = np.asarray(outputs["mask"]).tobytes(), np.asarray(outputs["mask_end"]).tolist()
    return [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _few(outputs: Outputs, chosen: np.ndarray) -> dict[str, np.ndarray]:
    arrays = {name: value.numpy() for name, value in outputs.items()}
    rows = np.flatnonzero(np.isin(arrays["image"], chosen) & (arrays["score"] >= LEAST))
    codes = codes_of(outputs)
    kept = [codes[row] for row in rows] if codes else []
    return {
        "image": np.searchsorted(chosen, arrays["image"][rows]),
        **{name: arrays[name][rows] for name in ("box", "score", "label")},
        "mask": np.frombuffer(b"".join(kept), dtype=np.uint8),
        "mask_end": np.cumsum([len(code) for code in kept], dtype=np.int64),
    }


def _jpeg(scenes: RaggedImages, index: int) -> bytes:
    """One image at the size that it had before it was resized, in which boxes are counted."""
    height, width = scenes.shapes[index].tolist()
    end = 3 * int(scenes.shapes[: index + 1].prod(axis=1).sum())
    stored = scenes.pixels[end - 3 * height * width : end].reshape(3, height, width)
    original = tuple(scenes.originals[index, ::-1].tolist())
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored.transpose(1, 2, 0))).resize(original).save(
        file, "jpeg", quality=_QUALITY
    )
    return file.getvalue()
