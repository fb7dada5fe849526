"""What a plan must know about the data: counts, classes, a fingerprint. For digits and folders without torch."""

from __future__ import annotations

from dataclasses import dataclass

from vitq.config import DataConfig, RunConfig
from vitq.data import digits
from vitq.data.folder_facts import SplitFacts, folder_facts
from vitq.data.location import form
from vitq.data.source import open_source
from vitq.errors import DataError, Problem


@dataclass(frozen=True)
class DataFacts:
    """Both splits. fingerprint: `<calibration split>-<evaluation split>`, 16 hex digits each."""

    calib_images: int
    eval_images: int
    fingerprint: str
    num_classes: int


def split_facts(data: DataConfig, split: str) -> SplitFacts:
    """Facts of one split. Raises DataError (missing root or split, unreadable class map, strange class folder …)."""
    kind = form(data)
    if kind == "digits":
        return SplitFacts(len(digits.indices(split)), digits.fingerprint(split), digits.NUM_CLASSES)
    if kind == "folder":
        return folder_facts(data, split)
    source = open_source(data, split)
    return SplitFacts(len(source), source.fingerprint, None)


def split_fingerprint(data: DataConfig, split: str) -> str:
    """16 hex digits that stand for a split's names, sizes and labels. Raises DataError."""
    return split_facts(data, split).fingerprint


def describe(config: RunConfig) -> DataFacts:
    """Facts of the data a run uses. Raises DataError that names everything wrong with root, splits and class map."""
    data = config.data
    found: list[SplitFacts] = []
    wrong: list[Problem] = []
    for split in (data.calib_split, data.eval_split):
        try:
            found.append(split_facts(data, split))
        except DataError as error:
            wrong += [problem for problem in error.problems if problem not in wrong]
    if wrong:
        raise DataError(wrong[0].reworded("; also: ".join(wrong)))
    calib, evaluation = found
    classes = [facts.classes for facts in found if facts.classes is not None]
    return DataFacts(
        calib_images=calib.images,
        eval_images=min(evaluation.images, data.eval_limit or evaluation.images),
        fingerprint=f"{calib.fingerprint}-{evaluation.fingerprint}",
        num_classes=max(classes, default=data.num_classes),
    )
