"""Ours beside published: full precision first, then each figure as drop and top-1, with an interval and a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitq.errors import StoreError
from vitq.report import reproduced_detectors as detectors
from vitq.report.comparison import interval
from vitq.report.paired_test import Predictions
from vitq.store import Store
from vitq.store.reproductions import ReproductionRecord, Target

# Images of ImageNet's validation split, which papers score.
_WHOLE = 50_000
# Decimals of published figures: what is nearer than their rounding is equal.
_ROUNDED = 0.005


@dataclass(frozen=True)
class Compared:
    """A measured figure in percent (points for a drop) with its 95 % interval over images, beside a published one.

    verdict: `inside` the interval; `above` and `below`: our accuracy is, so a smaller drop is above; None where nothing
    is published.
    """

    ours: float
    low: float
    high: float
    published: float | None
    verdict: str | None


@dataclass(frozen=True)
class FullPrecision:
    """Of one model. images: scored. why: there is no figure of ours (not finished, failed)."""

    model: str
    images: int
    top1: Compared | None
    published: float | None
    why: str = ""


@dataclass(frozen=True)
class Figure:
    """One target. seeds: finished runs; std: of top-1 over them, None for one; seconds: mean of a run."""

    target: Target
    seeds: int
    top1: float | None
    std: float | None
    drop: Compared | None
    seconds: float | None
    why: str = ""


def full_precision(store: Store, record: ReproductionRecord) -> list[FullPrecision]:
    """Each model's full precision, by the run that the targets refer to."""
    predictions = Predictions(store)
    rows = []
    for model in dict.fromkeys(target.model for target in record.targets):
        targets = [target for target in record.targets if target.model == model]
        published = targets[0].full_precision
        try:
            correct = _correct(store, predictions, targets[0].reference)
        except StoreError as error:
            rows.append(FullPrecision(model, 0, None, published, str(error)))
            continue
        if correct is None:
            rows.append(FullPrecision(model, 0, None, published, "not finished"))
            continue
        low, high = _wilson(int(correct.sum()), len(correct))
        ours = 100 * float(correct.mean())
        verdict = _verdict(published, low, high, larger="below")
        rows.append(FullPrecision(model, len(correct), Compared(ours, low, high, published, verdict), published))
    return rows


def figures(store: Store, record: ReproductionRecord) -> list[Figure]:
    """Each target, over the seeds that have finished."""
    predictions = Predictions(store)
    return [_figure(store, predictions, target) for target in record.targets]


def _figure(store: Store, predictions: Predictions, target: Target) -> Figure:
    try:
        reference = _correct(store, predictions, target.reference)
        read = [(run, _correct(store, predictions, run)) for run in target.runs]
    except StoreError as error:
        return Figure(target, 0, None, None, None, None, str(error))
    seeds = [(run, correct) for run, correct in read if correct is not None]
    if reference is None or not seeds:
        return Figure(target, len(seeds), None, None, None, None, "not finished")
    if any(len(correct) != len(reference) for _, correct in seeds):
        return Figure(target, len(seeds), None, None, None, None, "full precision was scored on other images")
    lost = np.sum([reference.astype(np.int64) - correct.astype(np.int64) for _, correct in seeds], axis=0)
    drop, low, high = (100 / len(seeds) * value for value in interval(lost))
    published = None if target.full_precision is None else target.full_precision - target.top1
    verdict = _verdict(published, low, high, larger="above")
    accuracies = [100 * float(correct.mean()) for _, correct in seeds]
    results = [store.run(run).read_result() for run, _ in seeds]
    return Figure(
        target=target,
        seeds=len(seeds),
        top1=float(np.mean(accuracies)),
        std=float(np.std(accuracies, ddof=1)) if len(seeds) > 1 else None,
        drop=Compared(drop, low, high, published, verdict),
        seconds=float(np.mean([result.timings.total for result in results if result])),
    )


def _correct(store: Store, predictions: Predictions, signature: str) -> np.ndarray | None:
    """bool (N,), which images a finished run has right; None where it has no result."""
    return predictions.read(signature)["correct"] if store.run(signature).is_done() else None


def _wilson(right: int, images: int) -> tuple[float, float]:
    """95 % interval of a share, percent."""
    from scipy.stats import binomtest

    bounds = binomtest(right, images).proportion_ci(method="wilson")
    return 100 * float(bounds.low), 100 * float(bounds.high)


def _verdict(published: float | None, low: float, high: float, larger: str) -> str | None:
    """larger: what our accuracy is where the published number is larger than the interval."""
    if published is None:
        return None
    smaller = {"above": "below", "below": "above"}[larger]
    return larger if published > high + _ROUNDED else smaller if published < low - _ROUNDED else "inside"


def first_words(rows: Sequence[FullPrecision]) -> list[str]:
    """Full precision in words, a line for each model: said before any method is compared."""
    lines = []
    for row in rows:
        if row.top1 is None:
            lines.append(f"{row.model}: full precision: {row.why}")
            continue
        one = row.top1
        ours = f"{one.ours:.2f} % [{one.low:.2f}, {one.high:.2f}] on {row.images} images"
        if row.published is None:
            lines.append(f"{row.model}: full precision {ours}; the paper states none")
        elif one.verdict == "inside":
            lines.append(f"{row.model}: full precision {ours}, published {row.published:.2f} %: the same")
        else:
            lines.append(
                f"{row.model}: full precision {ours}, published {row.published:.2f} %: {one.verdict}. "
                "Other images, crop or checkpoint than the paper's: drops are compared, top-1 is not"
            )
    return lines


def caveats(record: ReproductionRecord, rows: Sequence[FullPrecision | detectors.FullPrecision]) -> list[str]:
    """Every known deviation of the protocol, a line each."""
    whole = detectors.WHOLE if record.detectors else _WHOLE
    lines = [f"unknown: {record.unknown}"] if record.unknown else []
    lines += record.unlike
    scored = sorted({row.images for row in rows if row.images and row.images != whole})
    lines += [f"{images:,} images are scored, the paper's {whole:,}" for images in scored]
    lines += [f"given: {word}" for word in record.given]
    return [*lines, *record.deviations]


HEAD = ("model", "bits", "drop", "95 %", "paper", "verdict", "top-1", "paper", "seeds", "s")


def cells(row: Figure) -> list[str]:
    """A figure as texts under HEAD."""
    target, drop = row.target, row.drop
    top1 = f"{target.top1:.2f}"
    if drop is None or row.top1 is None:
        return [target.model, target.bits, "–", "", "", row.why, "–", top1, str(row.seeds), ""]
    spread = "" if row.std is None else f" ± {row.std:.2f}"
    published = "" if drop.published is None else f"{drop.published:.2f}"
    return [
        target.model, target.bits, f"{drop.ours:.2f}", f"[{drop.low:.2f}, {drop.high:.2f}]", published,
        drop.verdict or "", f"{row.top1:.2f}{spread}", top1, str(row.seeds), f"{row.seconds:.0f}",
    ]  # fmt: skip


NOTE = (
    "Drop: points of top-1 from full precision on the same images, with its 95 % interval over images. "
    "Verdict: whether the published drop lies inside it; above and below are of our accuracy."
)


def markdown(store: Store, record: ReproductionRecord) -> str:
    """The comparison as a page."""
    return f"# {record.name}\n\n{section(store, record)}"


def section(store: Store, record: ReproductionRecord) -> str:
    """The comparison as Markdown without a title: full precision first, the table, and what is not as in the paper."""
    ours = contents(store, record)
    lines = [f"Figures of {record.paper} for `{record.method}`.", ""]
    lines += [f"- {line}" for line in ours.first]
    lines += ["", "| " + " | ".join(ours.head) + " |", "|" + "---|" * len(ours.head)]
    lines += ["| " + " | ".join(row) + " |" for row in ours.rows]
    lines += ["", ours.note, "", "Not as in the paper:", ""]
    lines += [f"- {line}" for line in ours.caveats]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Contents:
    """What a comparison shows. first: full precision, in words. rows: figures as texts under head. caveats: what is not
    as in the paper. plain: the same as data."""

    first: list[str]
    head: tuple[str, ...]
    rows: list[list[str]]
    note: str
    caveats: list[str]
    plain: dict[str, Any]


def contents(store: Store, record: ReproductionRecord) -> Contents:
    """The comparison of classifiers, or of detectors."""
    if record.detectors:
        full, found = detectors.full_precision(store, record), detectors.figures(store, record)
        first, head, rows = detectors.first_words(full), detectors.HEAD, [detectors.cells(row) for row in found]
        return Contents(first, head, rows, detectors.NOTE, caveats(record, full), detectors.plain(full, found))
    full_rows, figure_rows = full_precision(store, record), figures(store, record)
    data = {
        "full_precision": [dataclasses.asdict(row) for row in full_rows],
        "figures": [_plain(row) for row in figure_rows],
    }
    texts = [cells(row) for row in figure_rows]
    return Contents(first_words(full_rows), HEAD, texts, NOTE, caveats(record, full_rows), data)


def opening(store: Store, record: ReproductionRecord) -> list[str]:
    """`first_words` of classifiers or of detectors, as soon as full precision has run."""
    if record.detectors:
        return detectors.first_words(detectors.full_precision(store, record))
    return first_words(full_precision(store, record))


def _plain(row: Figure) -> dict[str, Any]:
    drop = None if row.drop is None else dataclasses.asdict(row.drop)
    rest = {key: getattr(row, key) for key in ("seeds", "top1", "std", "seconds", "why")}
    return {**row.target.model_dump(), "published_top1": row.target.top1, "drop": drop, **rest}
