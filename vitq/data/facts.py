"""What a plan must know about the data: counts, classes, a fingerprint. For digits and folders without torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vitq.config import DataConfig, RunConfig
from vitq.data import digits, folder
from vitq.errors import DataError, unknown

# The prefixes of timm's `create_dataset`; '' is an image folder (or a .tar of one).
PREFIXES = ("hfds", "hfids", "tfds", "torch", "wds")


@dataclass(frozen=True)
class SplitFacts:
    """One split. classes: how many labels exist as far as the split tells; names: its class folders, if it has any."""

    images: int
    fingerprint: str
    classes: int | None
    names: frozenset[str] = frozenset()


@dataclass(frozen=True)
class DataFacts:
    """Both splits. fingerprint: `<calibration split>-<evaluation split>`, 16 hex digits each."""

    calib_images: int
    eval_images: int
    fingerprint: str
    num_classes: int


def form(data: DataConfig) -> str:
    """How the images are stored: `digits`, `folder`, `tar`, or a prefix of timm's `create_dataset`."""
    if data.dataset == "digits":
        return "digits"
    prefix, slash, _ = data.dataset.partition("/")
    if slash and prefix.lower() in PREFIXES:
        return prefix.lower()
    if data.dataset:
        valid = ["digits", *(f"{p}/<name>" for p in PREFIXES)]
        raise DataError(unknown("data.dataset", data.dataset, valid, "Leave it empty for an image folder."))
    return "tar" if data.root is not None and data.root.endswith(".tar") else "folder"


def root_of(data: DataConfig) -> str:
    """`data.root`, or DataError when it is not set."""
    if data.root is None:
        raise DataError(f"data.root is not set: where do the images of {data.name!r} lie? Set data.root=<folder>")
    return data.root


def split_facts(data: DataConfig, split: str) -> SplitFacts:
    """Facts of one split. Raises DataError (missing root or split, unreadable class map, strange class folder …)."""
    kind = form(data)
    if kind == "digits":
        return SplitFacts(len(digits.indices(split)), digits.fingerprint(split), digits.NUM_CLASSES)
    if kind == "folder":
        mapping = folder.class_map(data.class_map) if data.class_map else None
        place = folder.split_folder(root_of(data), split)
        return _folder_facts(place, folder.stamp(place), tuple(mapping) if mapping else None)
    from vitq.data.source import open_source

    source = open_source(data, split)
    return SplitFacts(len(source), source.fingerprint, None)


@lru_cache(maxsize=16)
def _folder_facts(place: Path, stamp: tuple[int, int], classes: tuple[str, ...] | None) -> SplitFacts:
    found = folder.listing(place)
    labels = folder.labels_of(found, {name: label for label, name in enumerate(classes)} if classes else None)
    content = hashlib.sha256()
    for name, size, label in zip(found.names, found.sizes, found.classes, strict=True):
        content.update(f"{name}\0{size}\0{labels[label]}\n".encode("utf-8", "surrogateescape"))
    names = frozenset(labels)
    return SplitFacts(len(found.names), content.hexdigest()[:16], len(classes) if classes else len(names), names)


def split_fingerprint(data: DataConfig, split: str) -> str:
    """16 hex digits that stand for a split's names, sizes and labels. Raises DataError."""
    return split_facts(data, split).fingerprint


def describe(config: RunConfig) -> DataFacts:
    """Facts of the data a run uses. Raises DataError that names everything wrong with root, splits and class map."""
    data = config.data
    found: list[SplitFacts] = []
    wrong: list[str] = []
    for split in (data.calib_split, data.eval_split):
        try:
            found.append(split_facts(data, split))
        except DataError as error:
            if str(error) not in wrong:
                wrong.append(str(error))
    if wrong:
        raise DataError("; also: ".join(wrong))
    calib, evaluation = found
    classes = [facts.classes for facts in found if facts.classes is not None]
    return DataFacts(
        calib_images=calib.images,
        eval_images=min(evaluation.images, data.eval_limit or evaluation.images),
        fingerprint=f"{calib.fingerprint}-{evaluation.fingerprint}",
        num_classes=max(classes, default=data.num_classes),
    )
