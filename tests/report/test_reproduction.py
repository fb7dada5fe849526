"""Ours beside published: full precision first, the verdict, the interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.fake_engine import FakeEngine, result_of
from vitq.planning.reproduction import PaperRequest, make
from vitq.report import reproduction as comparison
from vitq.store import Store
from vitq.store.reproductions import ReproductionRecord, Target, read_reproduction, write_reproduction

IMAGES = 400


def finish(store: Store, signature: str, right: int, engine: FakeEngine) -> None:
    """Give a planned run a result in which the first `right` of IMAGES are right."""
    run_dir = store.run(signature)
    correct = np.arange(IMAGES) < right
    run_dir.write_predictions({"correct": correct, "label": np.zeros(IMAGES, dtype=np.int64)})
    from vitq.store import Run

    run_dir.write_result(result_of(Run(run_dir).config, signature))


@pytest.fixture
def record(engine: FakeEngine, tmp_path: Path) -> tuple[Store, ReproductionRecord]:
    """RepQ-ViT at W4A4 and W6A6 on DeiT-tiny: published 57.43 and 70.76 of 72.21 %."""
    words = ("data.root=x", "tracker=none", "seed=0,1")
    plan, record = make(PaperRequest("repq_vit", models=["deit_tiny"], overrides=words))
    plan.commit()
    write_reproduction(plan.store, record)
    return plan.store, record


def by_bits(record: ReproductionRecord) -> dict[str, Target]:
    return {target.bits: target for target in record.targets}


def test_nothing_has_run(record: tuple[Store, ReproductionRecord]) -> None:
    store, one = record
    assert read_reproduction(store, "reproduce_repq_vit") == one
    (row,) = comparison.full_precision(store, one)
    assert (row.top1, row.published, row.why) == (None, 72.21, "not finished")
    assert {figure.why for figure in comparison.figures(store, one)} == {"not finished"}
    assert len(comparison.cells(comparison.figures(store, one)[0])) == len(comparison.HEAD)


@pytest.mark.parametrize(("right", "verdict"), [(289, "inside"), (320, "above"), (240, "below")])
def test_full_precision(record: tuple[Store, ReproductionRecord], engine: FakeEngine, right: int, verdict: str) -> None:
    store, one = record
    finish(store, one.targets[0].reference, right, engine)
    (row,) = comparison.full_precision(store, one)
    assert row.top1 is not None
    assert (row.top1.ours, row.top1.verdict, row.images) == (100 * right / IMAGES, verdict, IMAGES)
    assert row.top1.low < row.top1.ours < row.top1.high
    (line,) = comparison.first_words([row])
    assert ("drops are compared" in line) is (verdict != "inside")


def test_drops_are_compared_over_seeds(record: tuple[Store, ReproductionRecord], engine: FakeEngine) -> None:
    store, one = record
    target = by_bits(one)["W4A4"]  # published drop: 14.78 points
    finish(store, target.reference, 320, engine)
    finish(store, target.runs[0], 320 - 60, engine)
    finish(store, target.runs[1], 320 - 56, engine)
    figure = {f.target.bits: f for f in comparison.figures(store, one)}["W4A4"]
    assert figure.drop is not None
    assert figure.drop.ours == pytest.approx(100 * 58 / IMAGES)
    assert figure.drop.published == pytest.approx(14.78)
    assert figure.drop.low <= 14.78 <= figure.drop.high
    assert (figure.drop.verdict, figure.seeds) == ("inside", 2)
    assert figure.top1 == pytest.approx(100 * (320 - 58) / IMAGES)
    assert figure.std == pytest.approx(100 * 4 / IMAGES / np.sqrt(2))


@pytest.mark.parametrize(("lost", "verdict"), [(0, "above"), (6, "inside"), (60, "below")])
def test_verdicts(record: tuple[Store, ReproductionRecord], engine: FakeEngine, lost: int, verdict: str) -> None:
    store, one = record
    target = by_bits(one)["W6A6"]  # published drop: 1.45 points, 5.8 images
    finish(store, target.reference, 320, engine)
    finish(store, target.runs[0], 320 - lost, engine)
    figure = {f.target.bits: f for f in comparison.figures(store, one)}["W6A6"]
    assert figure.drop is not None
    assert (figure.drop.verdict, figure.seeds, figure.std) == (verdict, 1, None)


def test_the_interval_covers(engine: FakeEngine) -> None:
    """Of drops that are drawn, about 95 % of the intervals hold the true one."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        lost = rng.choice([1, 0, -1], p=[0.2, 0.75, 0.05], size=IMAGES)
        _, low, high = comparison.interval(lost, resamples=1000)
        inside += low <= 0.15 <= high
    assert 0.91 < inside / 300 < 0.98


def test_the_page_lists_every_deviation(record: tuple[Store, ReproductionRecord], engine: FakeEngine) -> None:
    store, one = record
    finish(store, one.targets[0].reference, 320, engine)
    page = comparison.markdown(store, one)
    lines = page.splitlines()
    for line in comparison.caveats(one, comparison.full_precision(store, one)):
        assert f"- {line}" in lines
    assert "- 400 images are scored, the paper's 50,000" in lines
    assert "- given: seed=0,1" in lines
    assert lines.index("- " + comparison.first_words(comparison.full_precision(store, one))[0]) < lines.index(
        "| " + " | ".join(comparison.HEAD) + " |"
    )
