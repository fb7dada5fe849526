"""Labels of listed images: class maps, and files that name the class of each image of a flat split."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from vitq.data.listing import Listing
from vitq.errors import DataError, Problem, shortened

# ImageNet's own label files of the flat validation folder: the development kit's and Kaggle's.
DEVKIT, KAGGLE = "ILSVRC2012_validation_ground_truth.txt", "LOC_val_solution.csv"
_FOLDERS = ("", "ILSVRC2012_devkit_t12/data", "data")
# Kaggle's archive has the images three folders below its label file (ILSVRC/Data/CLS-LOC/val).
_LEVELS = 4


def class_map(path: str) -> dict[str, int]:
    """Class folder name → label from a text file with one name per line, which may begin with a byte order mark.

    Raises DataError when the file is missing, not `.txt`, holds an empty line, or names a class twice.
    """
    file = Path(path).expanduser()
    if file.suffix != ".txt":
        raise _no_class_map(path, ": expected a .txt file with one class folder name per line", file.suffix, [".txt"])
    cannot = Problem(f"data.class_map={path!r} cannot be read", "data.class_map", path)
    lines = _lines(file, cannot, "give one class folder name per line")
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


def _lines(file: Path, cannot: Problem, action: str) -> list[str]:
    """Lines of a text file. Raises DataError, `cannot` with the reason, for one that cannot be read."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(cannot.reworded(f"{cannot}: {error}; {action}, in UTF-8")) from error
    return [line.strip() for line in text.rstrip().splitlines()]


def labels_of(split: Listing, mapping: dict[str, int] | None) -> dict[str, int]:
    """Class folder name → label for one split. Raises DataError for folders that the class map does not name."""
    present = set(split.classes)
    if mapping is None:
        return {name: rank for rank, name in enumerate(sorted(present, key=natural))}
    # Kaggle's and other maps describe the class behind its folder's name.
    first = {line.split()[0]: label for line, label in mapping.items()}
    if not present <= mapping.keys() and present <= first.keys() and len(first) == len(mapping):
        mapping = first
    if strange := sorted(present - mapping.keys()):
        what = f"{len(strange)} class folders that data.class_map does not name: {shortened(strange, 5)}"
        text = f"{split.path!r} has {what}; add them to the map or move them away"
        raise DataError(text, "data.class_map", strange, mapping)
    return {name: mapping[name] for name in present}


def natural(text: str) -> list[int | str]:
    """Sort key under which `n2` comes before `n10`: the order of timm's readers."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text.lower())]


def with_classes(split: Listing, root: str, labels: str | None) -> Listing:
    """The listing with the classes of images that lie in no class folder, from their label file.

    labels: that file; None: ImageNet's own is looked for in the split, in the root and above it. Raises DataError for
    images beside class folders, and where there is no label file or it does not fit the images.
    """
    loose = [name for name, label in zip(split.names, split.classes, strict=True) if not label]
    if not loose:
        return split
    file = Path(labels).expanduser() if labels else _label_file(split.path, root)
    if len(loose) < len(split.names) or file is None:
        raise DataError(
            f"{len(loose)} images lie in {split.path!r} itself, not in class folders ({', '.join(loose[:2])} …); move "
            f"them into folders named by class, or set data.labels=FILE: ImageNet's {DEVKIT} (with meta.mat beside it) "
            f"or {KAGGLE}, or lines `name class`",
            "data.labels",
            loose,
        )
    return replace(split, classes=_classes(file, split))


def _label_file(split_folder: str, root: str) -> Path | None:
    base = Path(root).expanduser().absolute()
    folders = (Path(split_folder), base, *list(base.parents)[: _LEVELS - 1])
    files = (folder / below / name for folder in folders for below in _FOLDERS for name in (DEVKIT, KAGGLE))
    return next((file for file in files if file.is_file()), None)


def _classes(file: Path, split: Listing) -> list[str]:
    """The class of each image, in the order of the listing."""
    what = f"label file {str(file)!r}"
    cannot = Problem(f"{what} cannot be read", "data.labels", str(file))
    rows = [re.split(r"[\s,]+", line) for line in _lines(file, cannot, "give lines `name class`")]
    stems = [os.path.splitext(name)[0] for name in split.names]
    if all(len(row) == 1 for row in rows):
        words = [row[0] for row in rows]
        numbers = [re.fullmatch(r"ILSVRC2012_val_(\d{8})", stem) for stem in stems]
        if all(numbers):
            lines = [int(number[1]) for number in numbers if number]
        elif len(words) == len(stems):
            order = sorted(range(len(stems)), key=lambda index: natural(stems[index]))
            lines = [line for _, line in sorted(zip(order, range(1, len(order) + 1), strict=True))]
        else:
            text = f"{what} has {len(words)} lines for {len(stems)} images of {split.path!r}; one line each is needed"
            raise DataError(text, "data.labels", len(words), [len(stems)])
        if min(lines) < 1 or max(lines) > len(words):
            number = max(lines)
            text = f"{what} has {len(words)} lines, but {split.path!r} has image number {number}; give the whole file"
            raise DataError(text, "data.labels", len(words), [number])
        names = [words[line - 1] for line in lines]
    else:
        table: dict[str, str] = {}
        for stem, name in ((os.path.splitext(row[0])[0], row[1]) for row in rows if len(row) > 1):
            if table.setdefault(stem, name) != name:
                text = f"{what} says of image {stem!r} that it is {table[stem]!r}, and that it is {name!r}; remove one"
                raise DataError(text, "data.labels", stem)
        missing = [name for name, stem in zip(split.names, stems, strict=True) if stem not in table]
        if missing:
            text = f"{what} does not name {len(missing)} images of {split.path!r}: {', '.join(missing[:3])}"
            raise DataError(text, "data.labels", missing)
        names = [table[stem] for stem in stems]
    if not all(name.isdecimal() for name in names):
        return names
    ids = _devkit_ids(file.parent / "meta.mat", what)
    return [ids[int(name)] for name in names]


def _devkit_ids(meta: Path, what: str) -> dict[int, str]:
    """ILSVRC2012 ID (1 … 1000, in no order of names) → WordNet ID, the class folder's name."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise DataError(
            f"{what} has numbers, and {str(meta)!r}, which says what class each is, cannot be read ({error}); put the "
            "development kit's meta.mat beside it, or give class folder names",
            "data.labels",
            str(meta),
        ) from error
    return {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
