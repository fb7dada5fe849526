"""Detectors beside a paper's: AP box and AP mask of full precision first, then each pair of figures and its drop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitq.errors import StoreError
from vitq.report.comparison import compare_runs
from vitq.report.paired_test import Predictions
from vitq.store import Store
from vitq.store.metrics import DetectionMetrics
from vitq.store.reproductions import DetectorTarget, ReproductionRecord
from vitq.store.result import Result

# Images of COCO's val2017, which papers score.
WHOLE = 5_000
# Papers print one decimal. Another decoder of JPEG files changes full precision by as much (docs/detection.md), and a
# difference of two printed figures is known no better.
_ROUNDED = 0.1
FORMS = ("box", "mask")


@dataclass(frozen=True)
class Judged:
    """An average precision of ours in percent, or a drop in points, beside a published one.

    verdict: `same` where they differ by a tenth at most; `above` and `below`: our precision is, so a smaller drop is
    above; None where nothing is published, and where our full precision is less than the published drop. It is no
    test: how far the precision of a set varies is not known.
    """

    ours: float
    published: float | None
    verdict: str | None


@dataclass(frozen=True)
class FullPrecision:
    """Of one model. images: scored. mask: None where only boxes were scored. why: there is no figure of ours."""

    model: str
    images: int
    box: Judged | None = None
    mask: Judged | None = None
    why: str = ""


@dataclass(frozen=True)
class Precision:
    """AP of one form over the finished seeds, percent: mean, and std where there are several; its drop, in points."""

    ours: float
    std: float | None
    published: float
    drop: Judged


@dataclass(frozen=True)
class Own:
    """What an image's own AP loses, of masks where there are some: mean over images, points, paired, with the 95 %
    interval of a bootstrap over images. Another figure than the drop of the set's AP."""

    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """One target. seeds: finished runs; seconds: mean of a run. own: None where it could not be compared, see why."""

    target: DetectorTarget
    seeds: int
    box: Precision | None = None
    mask: Precision | None = None
    own: Own | None = None
    seconds: float | None = None
    why: str = ""


def full_precision(store: Store, record: ReproductionRecord) -> list[FullPrecision]:
    """Each model's full precision, by the run that the targets refer to."""
    rows, targets = [], dict[str, DetectorTarget]()
    for target in record.detectors:
        targets.setdefault(target.model, target)
    for target in targets.values():
        try:
            result = _result(store, target.reference)
        except StoreError as error:
            rows.append(FullPrecision(target.model, 0, why=str(error)))
            continue
        if result is None:
            rows.append(FullPrecision(target.model, 0, why="not finished"))
            continue
        published = (target.full_precision_box, target.full_precision_mask)
        pairs = zip(_precisions(result), published, strict=True)
        box, mask = (None if own is None else _judged(own, known) for own, known in pairs)
        why = "" if box else "no object in the scored images"
        rows.append(FullPrecision(target.model, result.metrics.n_eval, box, mask, why))
    return rows


def figures(store: Store, record: ReproductionRecord) -> list[Figure]:
    """Each target, over the seeds that have finished."""
    predictions = Predictions(store)
    return [_figure(store, predictions, target) for target in record.detectors]


def _figure(store: Store, predictions: Predictions, target: DetectorTarget) -> Figure:
    try:
        reference = _result(store, target.reference)
        read = [(run, _result(store, run)) for run in target.runs]
    except StoreError as error:
        return Figure(target, 0, why=str(error))
    seeds = [(run, result) for run, result in read if result is not None]
    if reference is None or not seeds:
        return Figure(target, len(seeds), why="not finished")
    if any(result.metrics.n_eval != reference.metrics.n_eval for _, result in seeds):
        return Figure(target, len(seeds), why="full precision was scored on other images")
    full = _precisions(reference)
    published = (target.ap_box, target.ap_mask)
    stated = (target.full_precision_box, target.full_precision_mask)
    columns = list(zip(*(_precisions(result) for _, result in seeds), strict=True))
    box, mask = (_precision(*given) for given in zip(columns, full, published, stated, strict=True))
    # Each seed of the method against the one run of full precision.
    runs = {number: run for number, (run, _) in enumerate(seeds)}
    row = compare_runs(dict.fromkeys(runs, target.reference), runs, predictions)
    own = None if row["note"] else Own(*(float(str(row[key])) for key in ("difference", "low", "high")))
    seconds = float(np.mean([result.timings.total for _, result in seeds]))
    why = str(row["note"]) if box else "no object in the scored images"
    return Figure(target, len(seeds), box, mask, own, seconds, why)


def _precision(
    values: Sequence[float | None], full: float | None, published: float, stated: float | None
) -> Precision | None:
    known = [value for value in values if value is not None]
    if full is None or len(known) < len(values):
        return None
    mean = float(np.mean(known))
    drop = _judged(full - mean, None if stated is None else stated - published, larger="above")
    if drop.verdict == "above" and (drop.published or 0) > full:  # no method could have lost as much
        drop = dataclasses.replace(drop, verdict=None)
    return Precision(mean, float(np.std(known, ddof=1)) if len(known) > 1 else None, published, drop)


def _result(store: Store, signature: str) -> Result | None:
    """The record of a finished run; None where it has none. Raises StoreError for one that is no detector's."""
    run = store.run(signature)
    result = run.read_result() if run.is_done() else None
    if result is not None and not isinstance(result.metrics, DetectionMetrics):
        raise StoreError(f"{run.result_path} is of no detector; start the run again", value=run.result_path)
    return result


def _precisions(result: Result) -> tuple[float | None, float | None]:
    """AP box and AP mask."""
    metrics = result.metrics
    assert isinstance(metrics, DetectionMetrics)
    return metrics.ap_box, metrics.ap_mask


def _judged(ours: float, published: float | None, larger: str = "below") -> Judged:
    """larger: what our precision is where the published number is larger."""
    if published is None:
        return Judged(ours, None, None)
    smaller = {"above": "below", "below": "above"}[larger]
    gap = published - round(ours, 1)
    verdict = "same" if abs(gap) <= _ROUNDED + 1e-6 else larger if gap > 0 else smaller
    return Judged(ours, published, verdict)


def first_words(rows: Sequence[FullPrecision]) -> list[str]:
    """Full precision in words, a line for each model: said before any method is compared."""
    lines = []
    for row in rows:
        known = [judged for judged in (row.box, row.mask) if judged is not None]
        if row.box is None:
            lines.append(f"{row.model}: full precision: {row.why}")
            continue
        of = "/".join(FORMS[: len(known)])
        ours = f"AP {of} {_pair(known, lambda one: f'{one.ours:.2f}')} on {row.images:,} images"
        published = _pair(known, lambda one: "–" if one.published is None else f"{one.published:.1f}")
        verdicts = {judged.verdict for judged in known}
        if verdicts == {None}:
            lines.append(f"{row.model}: full precision {ours}; the paper states none")
        elif verdicts <= {"same", None}:
            lines.append(f"{row.model}: full precision {ours}, published {published}: the same")
        else:
            verdict = _pair(known, lambda one: one.verdict or "–")
            lines.append(
                f"{row.model}: full precision {ours}, published {published}: {verdict}. Other images, sizes or weights "
                "than the paper's: drops are compared, AP is not"
            )
    return lines


HEAD = ("model", "bits", "drop", "paper", "verdict", "AP", "paper", "own AP", "seeds", "s")


def cells(row: Figure) -> list[str]:
    """A figure as texts under HEAD: box and mask as papers print them, 37.5/36.6."""
    target, known = row.target, [one for one in (row.box, row.mask) if one is not None]
    published = f"{target.ap_box:.1f}/{target.ap_mask:.1f}"
    if row.box is None:
        return [target.model, target.bits, "–", "", row.why, "–", published, "", str(row.seeds), ""]
    own = row.why if row.own is None else f"{row.own.loss:.2f} [{row.own.low:.2f}, {row.own.high:.2f}]"
    spread = "" if row.box.std is None else f" ± {_pair(known, lambda one: f'{one.std:.2f}')}"
    return [
        target.model, target.bits, _pair(known, lambda one: f"{one.drop.ours:.2f}"),
        _pair(known, lambda one: "–" if one.drop.published is None else f"{one.drop.published:.1f}"),
        _pair(known, lambda one: one.drop.verdict or "–"), _pair(known, lambda one: f"{one.ours:.2f}") + spread,
        published, own, str(row.seeds), f"{row.seconds:.0f}",
    ]  # fmt: skip


def _pair(parts: Sequence[Any], text: Callable[[Any], str]) -> str:
    """Box and mask, or box alone; one word where both are the same word."""
    texts = [text(part) for part in parts]
    return texts[0] if texts[0].isalpha() and len(set(texts)) == 1 else "/".join(texts)


NOTE = (
    "Drop: points of AP box/mask from full precision on the same images. Verdict: `same` where it differs from the "
    "published one by 0.1 at most, which is the rounding of published figures; above and below are of our precision; "
    "none where full precision itself is less than the published drop. That is no test: no interval is known for the "
    "AP of a set. Own AP: what an image's own AP (of masks where there are some) loses, mean over images, with its "
    "95 % interval over images; another figure than the drop."
)


def plain(full: Sequence[FullPrecision], rows: Sequence[Figure]) -> dict[str, Any]:
    """Both as data."""
    texts = []
    for row in rows:
        ours = {key: value for key, value in dataclasses.asdict(row).items() if key != "target"}
        texts.append(row.target.model_dump() | ours)
    return {"full_precision": [dataclasses.asdict(row) for row in full], "figures": texts}
