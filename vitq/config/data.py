"""Which images: where they lie, how labels are read, which split calibrates and which is scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES


@dataclass(frozen=True, config=RULES)
class DataConfig:
    """A dataset.

    name: label of the dataset in tables; `digits` is the embedded one.
    dataset: name for timm's `create_dataset` ('' = ImageFolder, `wds/…`, `hfds/…`), or `digits`.
    root: folder of the images, or a .tar of it. Volatile: `fingerprint` stands for the content.
    class_map: text file with one class folder name per line, line number = label.
    labels: text or CSV file with the class of each image, for a split whose images lie in no class folders (ImageNet's
        validation images as they are downloaded: the development kit's or Kaggle's file). Volatile, as `root`.
    calib_split, eval_split: names of the split that calibrates and of the one that is scored.
    num_classes: classes of the model's head and of the labels.
    batch_size: images that are evaluated at once.
    workers: threads that decode images. Volatile.
    fingerprint: sha256 over names, sizes and labels of both splits; filled in by the plan, part of the identity.
    mean, std: replace the model's own where set.
    white: value of white in gray images of 16 bits, which no such file says: 65535 where they use all of the range,
        4095 for scans of 12 bits. The plan refuses such images without; null in a stored config is 65535, as before
        there was a choice.
    eval_limit: score only N images of the split; None = all.
    eval_choice: which: `spread` (evenly over the split sorted by class) or `first` (in the dataset's order). The plan
        sets `spread` where nothing is said; null in a stored config is `first`, as before there was a choice.
    held_out: score so many images of `calib_split` in place of `eval_split`, and calibrate on others: options can be
        chosen by such runs, and the evaluation split is never opened. The same images whatever the seed; the plan sets
        `eval_split` and `eval_limit` aside.
    allow_overlap: score images that calibrated the model. Without it such a run is refused.
    """

    name: str
    dataset: str = ""
    root: str | None = None
    class_map: str | None = None
    labels: str | None = None
    calib_split: str = "train"
    eval_split: str = "val"
    num_classes: Annotated[int, Field(ge=2)] = 1000
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    white: Annotated[int, Field(ge=1, le=65535)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 64
    eval_limit: Annotated[int, Field(ge=1)] | None = None
    eval_choice: Literal["spread", "first"] | None = None
    held_out: Annotated[int, Field(ge=1)] | None = None
    allow_overlap: bool = False
    workers: Annotated[int, Field(ge=0)] = 2
    fingerprint: str | None = None

    @property
    def scored_split(self) -> str:
        """The split whose images are scored."""
        return self.eval_split if self.held_out is None else self.calib_split
