"""Detectors beside a paper's: full precision, drops of AP box and mask, what is said where no interval is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.report.test_report_detectors import IMAGES, found
from vitq.config import RunConfig
from vitq.report import reproduced_detectors as detectors
from vitq.report import reproduction
from vitq.store import Store
from vitq.store.reproductions import (
    DetectorTarget,
    ReproductionRecord,
    Target,
    read_reproduction,
    write_reproduction,
)

Make = Callable[..., RunConfig]
DETECTOR = {"task": "segmentation", "model__name": "mask_rcnn"}


def record_of(reference: str, *runs: str) -> ReproductionRecord:
    """Mask R-CNN Swin-T of RepQ-ViT: published 46.0/41.6 in full precision, 36.1/36.0 at W4A4."""
    target = DetectorTarget(
        model="mask_rcnn_swin_tiny",
        bits="W4A4",
        table="COCO",
        ap_box=36.1,
        ap_mask=36.0,
        full_precision_box=46.0,
        full_precision_mask=41.6,
        runs=list(runs),
        reference=reference,
    )
    return ReproductionRecord(
        name="r", paper="repq_vit", method="repq_vit", targets=[], deviations=["one"], given=[], unlike=[],
        detectors=[target],
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.mark.parametrize(
    ("mask", "box_verdict", "mask_verdict"),
    [
        (41.6, "below", "same"),
        (41.7, "below", "same"),
        (41.8, "below", "above"),
        (44.9, "same", "above"),
        (30.0, "below", "below"),
    ],
)
def test_full_precision(store: Store, make_config: Make, mask: float, box_verdict: str, mask_verdict: str) -> None:
    """Boxes have one point more than masks here."""
    record = record_of(found(store, make_config("fp32", 8, **DETECTOR), mask), "0" * 16)
    (row,) = detectors.full_precision(store, record)
    assert row.box is not None
    assert row.mask is not None
    assert (row.box.ours, row.mask.ours, row.images) == (mask + 1, mask, IMAGES)
    assert (row.box.verdict, row.mask.verdict) == (box_verdict, mask_verdict)
    (line,) = detectors.first_words([row])
    assert "drops are compared" in line
    assert reproduction.opening(store, record) == [line]


def test_drops_over_seeds(store: Store, make_config: Make) -> None:
    reference = found(store, make_config("fp32", 8, **DETECTOR), 50.0)
    runs = [found(store, make_config("repq_vit", 4, seed=s, **DETECTOR), 44.4 + s) for s in (0, 1)]
    (row,) = detectors.figures(store, record_of(reference, *runs))
    assert row.box is not None
    assert row.mask is not None
    assert row.own is not None
    assert row.seeds == 2
    assert row.mask.ours == pytest.approx(44.9)
    assert row.mask.std == pytest.approx(0.5**0.5)
    drops = [(of.drop.ours, of.drop.published) for of in (row.mask, row.box)]
    assert np.allclose(np.array(drops, dtype=float), [(5.1, 5.6), (5.1, 9.9)])
    assert (row.box.drop.verdict, row.mask.drop.verdict) == ("above", "above"), "a smaller drop is a higher precision"
    # Whole percents of each image.
    assert row.own.loss == pytest.approx(5.1, abs=0.5)
    assert row.own.low <= row.own.loss <= row.own.high


@pytest.mark.parametrize(
    ("mask", "verdict"), [(44.4, "same"), (44.3, "same"), (44.5, "same"), (44.2, "below"), (44.6, "above")]
)
def test_a_tenth_is_the_rounding_of_papers(store: Store, make_config: Make, mask: float, verdict: str) -> None:
    reference = found(store, make_config("fp32", 8, **DETECTOR), 50.0)
    (row,) = detectors.figures(store, record_of(reference, found(store, make_config("m", 4, **DETECTOR), mask)))
    assert row.mask is not None
    assert row.mask.drop.verdict == verdict
    assert detectors.cells(row)[4] == ("above" if verdict == "above" else f"above/{verdict}")


@pytest.mark.parametrize(
    ("full", "mask", "verdicts"),
    [(0.0, 0.0, "–/–"), (7.0, 2.0, "–/above"), (7.0, 1.4, "–/same"), (9.0, 1.0, "above/below")],
)
def test_what_full_precision_does_not_have_no_method_loses(
    store: Store, make_config: Make, full: float, mask: float, verdicts: str
) -> None:
    """Published drops are 9.9/5.6; boxes have one point more than masks here."""
    reference = found(store, make_config("fp32", 8, **DETECTOR), full)
    (row,) = detectors.figures(store, record_of(reference, found(store, make_config("m", 4, **DETECTOR), mask)))
    assert detectors.cells(row)[4] == verdicts


def test_boxes_alone(store: Store, make_config: Make) -> None:
    boxes = {"task": "detection", "model__name": "mask_rcnn"}
    reference = found(store, make_config("fp32", 8, **boxes), 45.0, masks=False)
    record = record_of(reference, found(store, make_config("m", 4, **boxes), 40.0, masks=False))
    (row,), (full,) = detectors.figures(store, record), detectors.full_precision(store, record)
    assert (row.mask, full.mask) == (None, None)
    assert detectors.cells(row)[2:6] == ["5.00", "9.9", "above", "41.00"]
    assert detectors.first_words([full])[0].endswith("published 46.0: the same")


def test_what_has_not_run_or_saw_other_images(store: Store, make_config: Make) -> None:
    reference = found(store, make_config("fp32", 8, **DETECTOR), 45.0)
    (row,) = detectors.figures(store, record_of(reference, "0" * 16))
    assert (row.why, row.box, len(detectors.cells(row))) == ("not finished", None, len(detectors.HEAD))
    (full,) = detectors.full_precision(store, record_of("0" * 16))
    assert (full.why, full.box) == ("not finished", None)
    run = found(store, make_config("m", 4, **DETECTOR), 40.0)
    arrays = store.run(run).read_predictions()
    store.run(run).write_predictions(arrays | {"id": arrays["id"] + 1})
    (row,) = detectors.figures(store, record_of(reference, run))
    assert row.own is None
    assert row.why
    assert row.mask is not None, "the set's AP needs no pairs"


def test_the_page(store: Store, make_config: Make) -> None:
    reference = found(store, make_config("fp32", 8, **DETECTOR), 45.0)
    record = record_of(reference, found(store, make_config("m", 4, **DETECTOR), 40.0))
    lines = reproduction.markdown(store, record).splitlines()
    assert "| " + " | ".join(detectors.HEAD) + " |" in lines
    assert lines.count("- 50 images are scored, the paper's 5,000") == 1
    assert "- one" in lines
    assert detectors.NOTE in lines


def test_records_of_before(store: Store) -> None:
    """Those of classifiers are written as they were, and read."""
    target = Target(model="m", bits="W4A4", table=None, top1=1.0, full_precision=None, runs=[], reference="r")
    plain = ReproductionRecord(name="c", paper="p", method="m", targets=[target], deviations=[], given=[], unlike=[])
    assert '"detectors"' not in plain.to_json()
    write_reproduction(store, plain)
    assert read_reproduction(store, "c") == plain
    assert plain.references == {"r"}
    found_again = record_of("f", "q")
    write_reproduction(store, found_again)
    assert read_reproduction(store, "r") == found_again
