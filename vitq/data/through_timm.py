"""Sources that timm opens: torchvision's, Hugging Face's and TensorFlow's data sets, WebDatasets.

What stands for such a split is its content: the hash of the files that hold it, or of its arrays. A data set whose
content cannot be hashed is refused, because another one would be taken for it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from vitq.config import DataConfig
from vitq.data.class_labels import class_map
from vitq.data.content import file_hash
from vitq.data.listing import no_split
from vitq.data.source import Source, StreamedSource
from vitq.errors import DataError

_STREAMS = ("wds", "tfds", "hfids")


def open_with_timm(data: DataConfig, split: str, kind: str, cache_dir: str | Path | None) -> Source:
    """The images of one split. Raises DataError: missing root, split or package, unknown content or count."""
    from timm.data import create_dataset

    root = None if data.root is None else str(Path(data.root).expanduser())
    if kind not in ("hfds", "hfids") and (root is None or not os.path.exists(root)):
        text = f"data.root={data.root!r} does not exist; data.dataset={data.dataset!r} needs a path there"
        raise DataError(text, "data.root", data.root)
    mapping: Any = class_map(data.class_map) if data.class_map else None
    try:
        # Training mode would shuffle, and repeat or drop images.
        dataset = create_dataset(
            data.dataset, root=root, split=split, class_map=mapping, is_training=False, batch_size=1, download=False
        )
    except Exception as error:  # each backend has its own errors: the message is theirs, the next action is ours
        text = f"timm cannot open data.dataset={data.dataset!r}, split {split!r}, below {data.root!r}: {error}"
        action = "check the name, the split, the root, and that the package of this prefix is installed"
        raise DataError(f"{text}; {action}", "data.dataset", data.dataset) from error
    if type(dataset).__name__ == "ImageFolder" and root is not None and root == str(dataset.root):
        raise no_split(root, split)  # timm read the whole root because it has no folder of that name
    content = _content(dataset, kind, cache_dir)
    if content is None:
        text = (
            f"data.dataset={data.dataset!r}, split {split!r}: its images cannot be identified before a run (no files, "
            "arrays or revision to hash): others would be taken for them; convert it to an image folder"
        )
        raise DataError(text, "data.dataset", data.dataset)
    known = f"{data.dataset}\0{content}"
    if kind in _STREAMS:
        count = len(dataset)
        if count < 1:
            text = f"data.dataset={data.dataset!r} states no number of images for split {split!r}; add it to its info"
            raise DataError(text, "data.dataset", data.dataset)
        return StreamedSource(dataset, _hash(f"{known}\0{count}", np.empty(0)), count)
    labels = _labels(dataset)
    fingerprint = _hash(known, labels)
    paths = _paths(dataset)
    reader = getattr(dataset, "reader", None)
    if reader is not None:
        return Source(labels, fingerprint, _decoder(reader), lambda index: repr(reader.filename(index)))
    if paths is not None:
        sizes = np.array([os.path.getsize(path) for path in paths])
        return Source(
            labels, fingerprint, lambda index: dataset[index][0], lambda index: repr(paths[index]),
            lambda index: Path(paths[index]).read_bytes(), sizes,
        )  # fmt: skip
    arrays = np.asarray(dataset.data)
    sizes = np.full(len(labels), arrays[0].nbytes)
    return Source(labels, fingerprint, lambda index: dataset[index][0], None, lambda i: arrays[i].tobytes(), sizes)


def _decoder(reader: Any) -> Any:
    """Not through the dataset: that replaces a broken image by its neighbour."""
    from PIL import Image

    def image(index: int) -> Image.Image:
        with reader[index][0] as file:
            opened = Image.open(file)
            opened.load()
            return opened

    return image


def _content(dataset: Any, kind: str, cache_dir: str | Path | None) -> str | None:
    """What stands for the images, without the split's name: two names of one split are the same images."""
    reader: Any = getattr(dataset, "reader", dataset)
    if kind == "wds":
        return _files([os.path.join(reader.root, name) for name in reader.split_info.filenames], cache_dir)
    if kind == "hfds":
        held = getattr(reader.dataset, "cache_files", [])
        if not reader.dataset[0][reader.image_key].get("bytes"):
            return None  # paths alone: the images themselves lie elsewhere
        # A slice of a split (`train[:10%]`) has the files of the whole.
        return _files([file["filename"] for file in held], cache_dir, f"{reader.dataset.split}\0") if held else None
    if kind == "hfids":
        revision = getattr(reader.builder, "hash", None)
        return f"{revision}\0{reader.split}" if revision else None
    if kind == "tfds":
        folder = Path(str(reader.builder.data_dir))
        files = sorted(str(path) for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
        return _files(files, cache_dir, f"{reader.split}\0") if files else None
    paths = _paths(dataset)
    if paths is not None:  # as of an image folder: names and sizes
        top = os.path.commonpath(paths)
        return "\n".join(f"{os.path.relpath(path, top)}\0{os.path.getsize(path)}" for path in paths)
    arrays = getattr(dataset, "data", None)
    if arrays is None or not hasattr(arrays, "__array__"):
        return None
    return hashlib.sha256(np.ascontiguousarray(np.asarray(arrays)).tobytes()).hexdigest()


def _files(paths: list[str], cache_dir: str | Path | None, prefix: str = "") -> str | None:
    """Hashes of files in order; None where one of them is not here."""
    if not paths or not all(os.path.isfile(path) for path in paths):
        return None
    return prefix + "\n".join(file_hash(Path(path), cache_dir) for path in paths)


def _paths(dataset: Any) -> list[str] | None:
    """Files of a torchvision data set that keeps them by path."""
    for name in ("samples", "imgs"):
        if isinstance(pairs := getattr(dataset, name, None), list):
            return [str(path) for path, _ in pairs]
    if isinstance(index := getattr(dataset, "index", None), list) and hasattr(dataset, "all_categories"):  # iNaturalist
        return [os.path.join(dataset.root, dataset.all_categories[category], file) for category, file in index]
    return None


def _labels(dataset: Any) -> np.ndarray:
    reader = getattr(dataset, "reader", dataset)
    for name in ("targets", "_labels"):
        if hasattr(reader, name):
            return np.asarray(getattr(reader, name), dtype=np.int64)
    if hasattr(reader, "iter_targets"):
        return np.fromiter(reader.iter_targets(), dtype=np.int64, count=len(dataset))
    raise DataError(f"{type(reader).__name__} has no labels without decoding; convert the data to an image folder")


def _hash(text: str, labels: np.ndarray) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape") + labels.tobytes()).hexdigest()[:16]
