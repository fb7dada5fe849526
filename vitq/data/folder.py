"""Image folders and class maps, read without timm or torch so that a plan stays fast.

The rules are those of timm's folder reader (a test compares the two): the split is the folder of that name under the
root, with train/training and val/valid/validation as synonyms; the class is the name of the folder that holds the
image; the label is the class map's line number, or the folder's rank where no class map is given.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vitq.errors import DataError

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg"))
_SYNONYMS = (("train", "training"), ("val", "valid", "validation", "eval", "evaluation"))
# On a network file system the time goes into waiting for one answer per file.
_THREADS = 16


@dataclass(frozen=True)
class Listing:
    """Images of one split. names: paths relative to the split's folder; sizes in bytes; classes: folder names."""

    folder: str
    names: list[str]
    sizes: list[int]
    classes: list[str]


def split_folder(root: str, split: str) -> Path:
    """Folder of a split. Raises DataError that lists the folders that exist when the split has none."""
    base = Path(root).expanduser()
    if not base.is_dir():
        text = f"data.root={root!r} is not a folder; set data.root to the folder that holds the splits"
        raise DataError(text, "data.root", root)
    names = next((group for group in _SYNONYMS if split in group), ())
    for name in (split, *names):
        place = base / str(name)
        if place.is_dir():
            return place
    found = sorted(entry.name for entry in os.scandir(base) if entry.is_dir())
    raise DataError(
        f"data.root={root!r} has no split {split!r}; folders there: {', '.join(found[:20]) or 'none'}; "
        "set data.calib_split and data.eval_split",
        value=split,
        valid=found,
    )


def stamp(folder: Path) -> tuple[int, int]:
    """Changes when an image is added to, or removed from, a split or its class folders: a cheap question."""
    return (folder.stat().st_mtime_ns, sum(e.stat().st_mtime_ns for e in os.scandir(folder) if e.is_dir()))


def listing(place: Path) -> Listing:
    """All images below a folder with their sizes, sorted by name. Raises DataError when it holds no image."""
    folder = str(place)
    places = [place for place, _, _ in os.walk(folder, followlinks=True)]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = [entry for entries in pool.map(lambda place: _images(place, folder), places) for entry in entries]
    if not found:
        raise DataError(
            f"no image below {folder!r}; expected <class folder>/<name> with one of {', '.join(sorted(EXTENSIONS))}",
            value=folder,
            valid=sorted(EXTENSIONS),
        )
    found.sort()
    start = len(folder.rstrip(os.sep)) + 1
    names = [path[start:] for path, _, _ in found]
    return Listing(folder, names, [size for _, size, _ in found], [label for _, _, label in found])


def _images(place: str, top: str) -> list[tuple[str, int, str]]:
    """(path, size, class) of the images directly in a folder; the class of an image beside the class folders is ''."""
    label = "" if place == top else os.path.basename(place)
    with os.scandir(place) as entries:
        return [
            (entry.path, entry.stat().st_size, label)
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in EXTENSIONS and entry.is_file()
        ]


def class_map(path: str) -> dict[str, int]:
    """Class folder name → label from a text file with one name per line.

    Raises DataError when the file is missing, not `.txt`, holds an empty line, or names a class twice.
    """
    file = Path(path).expanduser()
    if file.suffix != ".txt":
        raise _no_class_map(path, ": expected a .txt file with one class folder name per line", file.suffix, [".txt"])
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise _no_class_map(path, f" cannot be read: {error}; give one class folder name per line") from error
    seen: dict[str, int] = {}
    for number, name in enumerate(lines):
        if not name:
            raise _no_class_map(path, f" has an empty line {number + 1}; each line is one class", number + 1)
        if name in seen:
            raise _no_class_map(path, f" names {name!r} in lines {seen[name] + 1} and {number + 1}", name)
        seen[name] = number
    if not seen:
        raise _no_class_map(path, " is empty; give one class folder name per line")
    return seen


def _no_class_map(path: str, why: str, value: object = None, valid: Iterable[object] = ()) -> DataError:
    return DataError(f"data.class_map={path!r}{why}", "data.class_map", path if value is None else value, valid)


def labels_of(split: Listing, mapping: dict[str, int] | None) -> dict[str, int]:
    """Class folder name → label for one split. Raises DataError for folders that the class map does not name."""
    present = set(split.classes)
    if mapping is None:
        return {name: rank for rank, name in enumerate(sorted(present, key=natural))}
    strange = sorted(present - mapping.keys())
    if strange:
        shown = ", ".join(strange[:5])
        raise DataError(
            f"{split.folder!r} has {len(strange)} class folders that data.class_map does not name: {shown}"
            f"{' …' if len(strange) > 5 else ''}; add them to the map or move them away",
            "data.class_map",
            strange,
            mapping,
        )
    return {name: mapping[name] for name in present}


def natural(text: str) -> list[int | str]:
    """Sort key under which `n2` comes before `n10`: the order of timm's readers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text.lower())]
