"""Which images: where they lie, how labels are read, which split calibrates and which is scored."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES


@dataclass(frozen=True, config=RULES)
class DataConfig:
    """A dataset.

    name: label of the dataset in tables; `digits` is the embedded one.
    dataset: name for timm's `create_dataset` ('' = ImageFolder, `wds/…`, `hfds/…`), or `digits`.
    root: folder of the images. Volatile: `fingerprint` stands for the content.
    class_map: text file with one class folder name per line, line number = label.
    fingerprint: sha256 over names, sizes and labels of both splits; filled in by the plan, part of the identity.
    mean, std: replace the model's own where set.
    eval_limit: score only the first N images of the split (in the dataset's order); None = all.
    """

    name: str
    dataset: str = ""
    root: str | None = None
    class_map: str | None = None
    calib_split: str = "train"
    eval_split: str = "val"
    num_classes: Annotated[int, Field(ge=2)] = 1000
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 64
    eval_limit: Annotated[int, Field(ge=1)] | None = None
    workers: Annotated[int, Field(ge=0)] = 2
    fingerprint: str | None = None
