"""Data in COCO's format: images in `<root>/<split>`, objects in `<root>/annotations/instances_<split>.json`."""

from __future__ import annotations

import hashlib
import io
import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitq.data.coco_entries import check_entries
from vitq.data.content import file_hash
from vitq.data.scenes import SceneSource
from vitq.errors import DataError, Problem

if TYPE_CHECKING:
    from PIL.Image import Image

_SHOWN = 3
# What whole files of a format end with, within so many bytes.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 12


class Coco(SceneSource):
    """One split, images in the order of their ids. Raises DataError for files that do not fit each other."""

    def __init__(self, folder: Path, annotations: Path):
        content = _parsed(annotations)
        images = sorted(content["images"], key=lambda image: int(image["id"]))
        self._images, self._annotations = images, _by_image(content["annotations"])
        paths = [folder / str(image["file_name"]) for image in images]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(paths)} images of {annotations.name} are not in {str(folder)!r}: "
                f"{', '.join(missing[:_SHOWN])}{' …' if len(missing) > _SHOWN else ''}; copy them there, or name the "
                "split that this folder holds (data.calib_split, data.eval_split)",
                "data.root",
                missing,
            )
        facts = [path.stat() for path in paths]
        sizes = np.array([fact.st_size for fact in facts])
        self.newest = max((fact.st_mtime for fact in facts), default=0.0)
        digest = hashlib.sha256(file_hash(annotations).encode() + sizes.tobytes()).hexdigest()[:16]

        self._paths, self._whole = paths, dict[int, tuple[int, int]]()

        def image(index: int) -> Image:
            from PIL import Image

            found = Image.open(io.BytesIO(paths[index].read_bytes()))
            wanted = images[index]["width"], images[index]["height"]
            if found.size != wanted:
                raise ValueError(f"it has {found.size} pixels, {annotations.name} says {wanted}")
            return found

        super().__init__(
            [int(image["id"]) for image in images],
            len(content["annotations"]),
            sorted(content["categories"], key=lambda category: int(category["id"])),
            digest,
            image,
            lambda index: repr(str(paths[index])),
            lambda index: paths[index].read_bytes(),
            sizes,
        )

    def truth(self, indices: np.ndarray) -> dict[str, Any]:
        chosen = [self._images[int(index)] for index in indices]
        keys = ("id", "height", "width", "file_name")
        return {
            "images": [{key: image[key] for key in keys} for image in chosen],
            "annotations": [entry for image in chosen for entry in self._annotations[image["id"]]],
            "categories": self.categories,
        }

    def counted(self, indices: np.ndarray) -> int:
        return sum(not e["iscrowd"] for i in indices for e in self._annotations[self._images[int(i)]["id"]])

    def unusable(self, indices: np.ndarray, workers: int) -> list[Problem]:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            return [problem for problems in pool.map(self._why_not, map(int, indices)) for problem in problems]

    def _why_not(self, index: int) -> list[Problem]:
        """Why an image cannot be used. Only one that does not look whole is decoded, and each once as it is."""
        from PIL import Image, UnidentifiedImageError

        entry, facts = self._images[index], self._paths[index].stat()
        stamp = facts.st_mtime_ns, facts.st_size
        if self._whole.get(index) == stamp:
            return []
        try:
            with self._paths[index].open("rb") as file, Image.open(file) as found:
                mark = _ENDS.get(found.format or "")
                file.seek(max(0, file.seek(0, io.SEEK_END) - _TAIL))
                if mark and mark in file.read() and found.size == (entry["width"], entry["height"]):
                    self._whole[index] = stamp
                    return []
        except (OSError, UnidentifiedImageError):
            pass  # decoding says what is wrong
        try:
            self.image(index)
        except DataError as error:
            return error.problems
        self._whole[index] = stamp
        return []


def open_coco(root: str, split: str) -> Coco:
    """A split below `root`. Raises DataError: no such folder or file, broken JSON, images that are missing."""
    base = Path(root).expanduser()
    folder, file = base / split, base / "annotations" / f"instances_{split}.json"
    if not file.is_file():
        known = sorted(path.stem.removeprefix("instances_") for path in base.glob("annotations/instances_*.json"))
        raise DataError(
            f"{str(file)!r} does not exist; data.root is the folder that holds annotations/ and the images' folders, "
            f"splits there: {', '.join(known) or 'none'}",
            "data.root" if not known else "data.eval_split",
            split,
            known,
        )
    if not folder.is_dir():
        text = f"{str(folder)!r} is no folder; put the images of split {split!r} there"
        raise DataError(text, "data.root", str(folder))
    stamp = folder.stat().st_mtime_ns, file.stat().st_mtime_ns, file.stat().st_size
    return _opened(folder, file, stamp)


@lru_cache(maxsize=4)
def _opened(folder: Path, file: Path, stamp: tuple[int, ...]) -> Coco:
    return Coco(folder, file)


def _parsed(file: Path) -> dict[str, Any]:
    """The file's content, checked. Raises DataError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{str(file)!r} cannot be read as JSON: {error}; copy it again", "data.root", str(file)
        ) from error
    check_entries(file, content)
    return dict(content)


def _by_image(annotations: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in annotations:
        found[entry["image_id"]].append({"iscrowd": 0, **entry})
    return found
