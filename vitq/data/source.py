"""Images one by one, as PIL, from wherever they are stored. Everything but the digits is read through timm."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitq.config import DataConfig
from vitq.data import folder
from vitq.data.digits import Digits
from vitq.data.digits import fingerprint as digits_fingerprint
from vitq.data.folder_facts import folder_facts
from vitq.data.location import form, root_of
from vitq.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

UNKNOWN = -1  # label of an image whose source tells no label before it is read


class Source:
    """Random access to the images of one split. labels: int64 (N,). threads: whether `image` may run in several."""

    threads = True

    def __init__(self, labels: np.ndarray, fingerprint: str, image: Any, name: Any = None):
        self.labels = np.asarray(labels, dtype=np.int64)
        self.fingerprint = fingerprint
        self._image = image
        self._name = name or (lambda index: f"number {index}")

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image:
        """RGB image at a position. Raises DataError naming the file when it cannot be decoded."""
        try:
            image: Image = self._image(index).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(
                f"image {self._name(index)} cannot be decoded: {error}; replace it or take it out of the split",
                value=self._name(index),
            ) from error
        return image


class StreamedSource(Source):
    """A split that can only be read from its start (WebDataset, TFDS, iterable HF datasets); labels are UNKNOWN."""

    threads = False

    def __init__(self, dataset: Any, fingerprint: str, count: int):
        super().__init__(np.full(count, UNKNOWN), fingerprint, None)
        self._dataset = dataset

    def pick(self, indices: np.ndarray) -> Iterator[tuple[int, Image, int]]:
        """(slot in `indices`, RGB image, label) in stream order; reading stops after the last one wanted.

        Raises DataError when the stream ends early.
        """
        slots = {int(index): slot for slot, index in enumerate(indices)}
        for index, (image, label) in enumerate(self._dataset):
            if index in slots:
                yield slots.pop(index), image.convert("RGB"), int(label)
            if not slots:
                return
        raise DataError(
            f"the stream ended {len(slots)} images early, it tells {len(self)} in its info; correct that count "
            "(undecodable images are skipped by timm's reader and also look like this)",
            value=len(self) - len(slots),
            valid=[len(self)],
        )


def open_source(data: DataConfig, split: str) -> Source:
    """The images of one split. Raises DataError: missing root, split or package, or a count that nobody knows."""
    kind = form(data)
    if kind == "digits":
        digits = Digits(split)
        return Source(digits.labels, digits_fingerprint(split), digits.image)
    if kind == "folder":
        return _open_folder(data, split)
    return _open_other(data, split, kind)


def _open_folder(data: DataConfig, split: str) -> Source:
    from timm.data import create_dataset

    facts = folder_facts(data, split)
    place = folder.split_folder(root_of(data), split)
    mapping: Any = folder.class_map(data.class_map) if data.class_map else None
    dataset = create_dataset("", root=str(place), search_split=False, class_map=mapping)
    if len(dataset) != facts.images:
        text = f"{str(place)!r} changed while it was read: {facts.images} images, then {len(dataset)}; retry"
        raise DataError(text, value=str(place))
    labels = np.array([label for _, label in dataset.reader.samples], dtype=np.int64)
    return Source(labels, facts.fingerprint, *_reader(dataset.reader))


def _reader(reader: Any) -> tuple[Any, Any]:
    """Decoder and names of a timm reader. Not through the dataset: that replaces a broken image by its neighbour."""
    from PIL import Image

    def image(index: int) -> Image.Image:
        with reader[index][0] as file:
            return Image.open(file).convert("RGB")

    return image, lambda index: repr(reader.filename(index))


def _open_other(data: DataConfig, split: str, kind: str) -> Source:
    from timm.data import create_dataset

    root = None if data.root is None else str(Path(data.root).expanduser())
    if kind not in ("hfds", "hfids") and (root is None or not os.path.exists(root)):
        text = f"data.root={data.root!r} does not exist; data.dataset={data.dataset!r} needs a path there"
        raise DataError(text, "data.root", data.root)
    mapping: Any = folder.class_map(data.class_map) if data.class_map else None
    try:
        # Training mode would shuffle, and repeat or drop images.
        dataset = create_dataset(
            data.dataset, root=root, split=split, class_map=mapping, is_training=False, batch_size=1, download=False
        )
    except Exception as error:  # each backend has its own errors: the message is theirs, the next action is ours
        raise DataError(
            f"timm cannot open data.dataset={data.dataset!r}, split {split!r}, below {data.root!r}: {error}; "
            "check the name, the split, the root, and that the package of this prefix is installed",
            "data.dataset",
            data.dataset,
        ) from error
    known = f"{data.dataset}\0{split}\0{_shards(dataset)}"
    if kind in ("wds", "tfds", "hfids"):
        count = len(dataset)
        if count < 1:
            raise DataError(
                f"data.dataset={data.dataset!r} tells no number of images for split {split!r}; add it to its info",
                "data.dataset",
                data.dataset,
            )
        return StreamedSource(dataset, _hash(f"{known}\0{count}", np.empty(0)), count)
    labels = _labels(dataset)
    if hasattr(dataset, "reader"):
        source = Source(labels, _hash(known, labels), *_reader(dataset.reader))
    else:
        source = Source(labels, _hash(known, labels), lambda index: dataset[index][0])
    # An open tar file has one position.
    source.threads = kind != "tar"
    return source


def _labels(dataset: Any) -> np.ndarray:
    reader = getattr(dataset, "reader", dataset)
    for name in ("targets", "_labels"):
        if hasattr(reader, name):
            return np.asarray(getattr(reader, name), dtype=np.int64)
    if hasattr(reader, "iter_targets"):
        return np.fromiter(reader.iter_targets(), dtype=np.int64, count=len(dataset))
    raise DataError(f"{type(reader).__name__} tells no labels without decoding; convert the data to an image folder")


def _shards(dataset: Any) -> str:
    """Names and sizes of the shards of a WebDataset, '' for the others."""
    reader: Any = getattr(dataset, "reader", None)
    info = getattr(reader, "split_info", None)
    if info is None or not hasattr(info, "filenames"):
        return ""
    paths = [os.path.join(reader.root, name) for name in info.filenames]
    return ";".join(f"{os.path.basename(p)}:{os.path.getsize(p) if os.path.exists(p) else -1}" for p in paths)


def _hash(text: str, labels: np.ndarray) -> str:
    return hashlib.sha256(text.encode() + labels.tobytes()).hexdigest()[:16]
