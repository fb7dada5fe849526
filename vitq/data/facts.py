"""What a plan must know about the data: counts, classes, a fingerprint. For files without torch."""

from __future__ import annotations

from dataclasses import dataclass

from vitq.config import RunConfig
from vitq.data.opening import open_source
from vitq.errors import DataError, Problem


@dataclass(frozen=True)
class DataFacts:
    """Both splits. fingerprint: `<calibration split>-<evaluation split>`, 16 hex digits each. newest: `Source`'s."""

    calib_images: int
    eval_images: int
    fingerprint: str
    num_classes: int
    newest: float = 0.0


def describe(config: RunConfig) -> DataFacts:
    """Facts of the data a run uses. Raises DataError that names everything wrong with root, splits and class map."""
    data = config.data
    sources = []
    wrong: list[Problem] = []
    for split in (data.calib_split, data.scored_split):
        try:
            sources.append(open_source(data, split, config.cache_dir))
        except DataError as error:
            wrong += [problem for problem in error.problems if problem not in wrong]
    if wrong:
        raise DataError.of(wrong)
    calib, evaluation = sources
    classes = [source.classes for source in sources if source.classes is not None]
    return DataFacts(
        calib_images=len(calib),
        eval_images=min(len(evaluation), data.held_out or data.eval_limit or len(evaluation)),
        fingerprint=f"{calib.fingerprint}-{evaluation.fingerprint}",
        num_classes=max(classes, default=data.num_classes),
        newest=max(source.newest for source in sources),
    )
