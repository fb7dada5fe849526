"""What a plan must know about one split of an image folder. Reads names and sizes, no image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vitq.config import DataConfig
from vitq.data import folder
from vitq.data.location import root_of


@dataclass(frozen=True)
class SplitFacts:
    """One split. classes: how many labels exist as far as the split tells; names: its class folders, if it has any."""

    images: int
    fingerprint: str
    classes: int | None
    names: frozenset[str] = frozenset()


def folder_facts(data: DataConfig, split: str) -> SplitFacts:
    """Facts of a split. Raises DataError: missing root or split, unreadable class map, strange class folder."""
    mapping = folder.class_map(data.class_map) if data.class_map else None
    place = folder.split_folder(root_of(data), split)
    return _folder_facts(place, folder.stamp(place), tuple(mapping) if mapping else None)


@lru_cache(maxsize=16)
def _folder_facts(place: Path, stamp: tuple[int, int], classes: tuple[str, ...] | None) -> SplitFacts:
    found = folder.listing(place)
    labels = folder.labels_of(found, {name: label for label, name in enumerate(classes)} if classes else None)
    content = hashlib.sha256()
    for name, size, label in zip(found.names, found.sizes, found.classes, strict=True):
        content.update(f"{name}\0{size}\0{labels[label]}\n".encode("utf-8", "surrogateescape"))
    names = frozenset(labels)
    return SplitFacts(len(found.names), content.hexdigest()[:16], len(classes) if classes else len(names), names)
