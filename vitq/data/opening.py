"""A split's images from wherever they are stored. What is no folder, .tar or digits is read through timm."""

from __future__ import annotations

import copy
import hashlib
import io
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitq.config import DataConfig
from vitq.data import digits, listing
from vitq.data.class_labels import class_map, labels_of, natural, with_classes
from vitq.data.coco import open_coco
from vitq.data.content import file_hash
from vitq.data.digit_scenes import DigitScenes
from vitq.data.listing import Listing
from vitq.data.location import form, root_of
from vitq.data.source import Source

if TYPE_CHECKING:
    from PIL.Image import Image

# The largest value of 16 bits.
_WHITE = 65535


def open_source(data: DataConfig, split: str, cache_dir: str | Path | None = None) -> Source:
    """The images of one split; no torch for digits, folders and archives.

    cache_dir: where hashes of large files are kept. Raises DataError: missing root, split or package, a class map or
    label file that does not fit, or an unknown number of images.
    """
    source = copy.copy(_open(data, split, cache_dir))  # what lies there is shared; what its white is, is not
    # Where they are counted, the plan has asked, and a stored config without an answer is older than the question.
    source.white = data.white or (_WHITE if source.deep else None)
    return source


def _open(data: DataConfig, split: str, cache_dir: str | Path | None) -> Source:
    kind = form(data)
    if kind == "digits":
        scans = digits.Digits(split)
        return Source(scans.labels, digits.fingerprint(split), scans.image, classes=digits.NUM_CLASSES)
    if kind == "digit_scenes":
        return DigitScenes(split)
    if kind == "coco":
        return open_coco(root_of(data), split)
    if kind not in ("folder", "tar"):
        from vitq.data.through_timm import open_with_timm

        return open_with_timm(data, split, kind, cache_dir)
    mapping = class_map(data.class_map) if data.class_map else None
    classes = tuple(mapping) if mapping else None
    root = root_of(data)
    named = file_hash(Path(data.labels).expanduser(), key="data.labels") if data.labels else None
    if kind == "tar":
        archive = Path(root).expanduser()
        content = file_hash(archive, cache_dir, "data.root")
        return _listed(archive, split, (content, named), classes, root, data.labels)
    folder = listing.split_folder(root, split)
    return _listed(folder, None, (listing.stamp(folder), named), classes, root, data.labels)


@lru_cache(maxsize=4)
def _listed(
    path: Path,
    split: str | None,
    stamp: tuple[Any, ...],
    classes: tuple[str, ...] | None,
    root: str,
    labels: str | None,
) -> Source:
    """A folder (split None) or the part of an archive. stamp: changes with what lies there."""
    listed = listing.list_folder(path, classes or ()) if split is None else listing.list_tar(path, split)
    flat = not all(listed.classes)
    listed = with_classes(listed, root, labels)
    label_of = labels_of(listed, {name: label for label, name in enumerate(classes)} if classes else None)
    order = sorted(range(len(listed.names)), key=lambda index: natural(listed.names[index]))  # timm's

    def image(index: int) -> Image:
        from PIL import Image

        return Image.open(io.BytesIO(listed.read(order[index])))

    source = Source(
        [label_of[listed.classes[index]] for index in order],
        _fingerprint(listed, label_of, "" if split is None else str(stamp[0])),
        image,
        lambda index: repr(f"{listed.path}/{listed.names[order[index]]}"),
        lambda index: listed.read(order[index]),
        np.array([listed.sizes[index] for index in order]),
        len(classes) if classes else len(label_of),
        frozenset(label_of),
        listed.left_out,
        len(listed.sixteen),
        flat,
    )
    source.newest = listed.newest
    return source


def _fingerprint(listed: Listing, label_of: dict[str, int], archive: str) -> str:
    content = hashlib.sha256(archive.encode())
    for name, size, label in zip(listed.names, listed.sizes, listed.classes, strict=True):
        # Images of 16 bits were clipped to white before they were scaled.
        depth = "\0" + "16" if name in listed.sixteen else ""
        content.update(f"{name}\0{size}\0{label_of[label]}{depth}\n".encode("utf-8", "surrogateescape"))
    return content.hexdigest()[:16]
