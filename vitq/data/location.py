"""Where images lie and in which form: what `data.dataset` and `data.root` say."""

from __future__ import annotations

from vitq.config import DataConfig
from vitq.errors import DataError, unknown

# The prefixes of timm's `create_dataset`; '' is an image folder (or a .tar of one).
PREFIXES = ("hfds", "hfids", "tfds", "torch", "wds")
# Data whose images hold objects: for detectors.
SCENES = ("coco", "digit_scenes")


def form(data: DataConfig) -> str:
    """How the images are stored: `digits`, `folder`, `tar`, one of SCENES, or a prefix of timm's `create_dataset`."""
    if data.dataset in ("digits", *SCENES):
        return data.dataset
    prefix, slash, _ = data.dataset.partition("/")
    if slash and prefix.lower() in PREFIXES:
        return prefix.lower()
    if data.dataset:
        valid = ["digits", *SCENES, *(f"{p}/<name>" for p in PREFIXES)]
        action = "Leave it empty for an image folder."
        raise DataError(unknown("data.dataset", data.dataset, valid, action, key="data.dataset"))
    return "tar" if data.root is not None and data.root.endswith(".tar") else "folder"


def root_of(data: DataConfig) -> str:
    """`data.root`, or DataError when it is not set."""
    if not data.root:
        text = f"data.root is not set: where do the images of {data.name!r} lie? Set data.root=<folder>"
        raise DataError(text, "data.root")
    return data.root
