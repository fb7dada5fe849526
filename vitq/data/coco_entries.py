"""What COCO's annotation files must hold, and what a file lacks of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vitq.errors import DataError

_SHOWN = 3
_LISTS = ("images", "annotations", "categories")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_number, value)) and min(value[2:]) >= 0


_WHOLE: tuple[Callable[[Any], bool], str] = (lambda v: type(v) is int, "a whole number")
_SIDE: tuple[Callable[[Any], bool], str] = (lambda v: type(v) is int and v > 0, "a number of pixels, 1 or more")
_TEXT: tuple[Callable[[Any], bool], str] = (lambda v: isinstance(v, str) and v != "", "a text")
# List → key → what its value must be.
_KEYS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "images": {"id": _WHOLE, "file_name": _TEXT, "height": _SIDE, "width": _SIDE},
    "annotations": {
        "id": _WHOLE,
        "image_id": _WHOLE,
        "category_id": _WHOLE,
        "bbox": (_box, "four finite numbers, x, y, width and height, the last two 0 or more"),
        "area": (lambda v: _number(v) and v >= 0, "a finite number, 0 or more"),
        "segmentation": (lambda v: isinstance(v, list | dict), "a list of polygons, or a run-length code"),
    },
    "categories": {"id": _WHOLE, "name": _TEXT},
}


def check_entries(file: Path, content: Any) -> None:
    """Raise DataError where the parsed file is no `instances` file, or its parts do not belong together."""
    absent = [name for name in _LISTS if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if absent:
        text = f"{str(file)!r} has no list of {', '.join(absent)}; COCO's instances_*.json has {', '.join(_LISTS)}"
        raise DataError(text, "data.root", absent, _LISTS)
    for name, keys in _KEYS.items():
        for entry in content[name]:
            if not isinstance(entry, dict) or (lacking := [key for key in keys if key not in entry]):
                missing = list(keys) if not isinstance(entry, dict) else lacking
                raise DataError(
                    f"{str(file)!r}: an entry of {name!r} has no {', '.join(missing)}: {str(entry)[:100]}; entries of "
                    f"instances files have {', '.join(keys)}",
                    "data.root",
                    missing,
                    list(keys),
                )
            for key, (fits, wanted) in keys.items():
                if not fits(entry[key]):
                    raise DataError(
                        f"{str(file)!r}: the entry of {name!r} with id={entry['id']} has {key}="
                        f"{str(entry[key])[:60]}; it must be {wanted}",
                        "data.root",
                        entry[key],
                    )
        twice = [number for number, times in Counter(entry["id"] for entry in content[name]).items() if times > 1]
        if twice:
            text = f"{str(file)!r}: {len(twice)} ids of {name!r} are there twice: {_few(twice)}; make them different"
            raise DataError(text, "data.root", twice)
    for key, name in (("image_id", "images"), ("category_id", "categories")):
        known = {entry["id"] for entry in content[name]}
        strange = sorted({entry[key] for entry in content["annotations"]} - known)
        if strange:
            raise DataError(
                f"{str(file)!r}: {len(strange)} values of {key} are of no entry of {name!r}: {_few(strange)}; this "
                "file belongs to other images, or was cut",
                "data.root",
                strange,
            )


def without_masks(truth: Mapping[str, Any]) -> list[int]:
    """Ids of the objects whose `segmentation` is no mask of their image: polygons of three points and more, or a
    run-length code of the image's height and width."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    return [entry["id"] for entry in truth["annotations"] if not _mask(entry["segmentation"], sizes[entry["image_id"]])]


def _mask(segmentation: Any, size: list[int]) -> bool:
    if isinstance(segmentation, dict):
        counts = isinstance(segmentation.get("counts"), list | str | bytes)
        return counts and list(segmentation.get("size", ())) == size
    polygons = [isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(map(_number, p)) for p in segmentation]
    return bool(polygons) and all(polygons)


def _few(values: Iterable[Any]) -> str:
    shown = list(map(str, values))
    return ", ".join(shown[:_SHOWN]) + (" …" if len(shown) > _SHOWN else "")
