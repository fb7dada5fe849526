"""Accuracy against seconds: the front, in table and figure."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tests.report.conftest import config, correct, finish
from vitq import report
from vitq.plots.palette import style
from vitq.report.effort import cells, efforts, figures
from vitq.store import Store, SweepRecord


def table(*rows: tuple[str, str, int, float, float]) -> pd.DataFrame:
    """(method, bits, seed, seconds, top-1) of finished runs."""
    out = pd.DataFrame(rows, columns=["method", "bits", "seed", "quantize_seconds", "top1"])
    return out.assign(model="m", data="d", calib=32, state="done", options="paper's")


def test_the_front() -> None:
    df = table(
        ("slow", "W4A4", 0, 90.0, 71.0), ("slow", "W4A4", 1, 110.0, 73.0), ("quick", "W4A4", 0, 1.0, 60.0),
        ("worse", "W4A4", 0, 50.0, 59.0), ("equal", "W4A4", 0, 100.0, 72.0), ("quick", "W8A8", 0, 1.0, 80.0),
    )  # fmt: skip
    found = efforts(df)
    assert [(e.bits, e.method, e.seconds, e.top1, e.front) for e in found] == [
        ("W8A8", "quick", 1.0, 80.0, True),
        ("W4A4", "quick", 1.0, 60.0, True),
        ("W4A4", "worse", 50.0, 59.0, False),
        ("W4A4", "slow", 100.0, 72.0, True),
        ("W4A4", "equal", 100.0, 72.0, False),
    ]
    head, rows = cells(found)
    assert dict(zip(head, rows[0], strict=True)) | {"options": ""} == {
        "model": "m", "bits": "W8A8", "method": "quick", "options": "", "s to quantize": "1.00", "top-1": "80.00",
        "front": "yes",
    }  # fmt: skip
    ((model, figure),) = figures(df)
    assert model == "m"
    assert [trace.name for trace in figure.data if trace.name] == ["quick", "worse", "slow", "equal"]
    assert list(figure.data[1].x) == [1.0, 100.0], "the front of W4A4"
    assert [[text.strip() for text in figure.data[n].text] for n in (0, 1)] == [["W8A8"], ["", "W4A4"]]
    assert figure.data[2].marker.color == style(1)[0], "quick is the second method of the table, in each figure"
    more = pd.concat([df, df.assign(calib=64)])
    assert [trace.text[-1].strip() for trace in figures(more)[0][1].data if trace.mode == "lines+text"] == [
        "W8A8, 32 images", "W8A8, 64 images", "W4A4, 32 images", "W4A4, 64 images"
    ]  # fmt: skip


def test_detectors_by_their_average_precision() -> None:
    df = table(("slow", "W4A4", 0, 90.0, 0.0), ("quick", "W4A4", 0, 1.0, 0.0))
    df = df.assign(
        top1=float("nan"), drop=1.0, fp_top1=float("nan"), ap_mask=[41.5, 40.0], drop_mask=1.0, fp_ap_mask=42.0
    )
    found = efforts(df)
    assert [(e.method, e.score, e.top1, e.front) for e in found] == [
        ("quick", "AP mask", 40.0, True), ("slow", "AP mask", 41.5, True),
    ]  # fmt: skip
    head, rows = cells(found)
    assert [dict(zip(head, row, strict=True))["AP mask"] for row in rows] == ["40.00", "41.50"]
    mixed = pd.concat([df, table(("one", "W4A4", 0, 1.0, 60.0)).assign(model="classifier")])
    head, rows = cells(efforts(mixed))
    assert {row[head.index("score")] for row in rows} == {"AP mask 40.00", "AP mask 41.50", "top-1 60.00"}


def test_nothing_to_draw() -> None:
    assert figures(table(("one", "W4A4", 0, 1.0, 60.0))) == []
    assert efforts(table(("one", "W4A4", 0, float("nan"), 60.0))) == []


def test_seconds_of_a_run_that_an_earlier_attempt_began_are_not_known(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stages = {"data": 3.0, "steps.a": 1.5, "steps.b": 0.5}
    runs = [
        finish(store, config(method, 4), correct(5), timings={"total": 9.0, "stages": stages, "resumed": resumed})
        for method, resumed in (("whole", False), ("resumed", True))
    ]
    store.write_sweep(SweepRecord(name="s", signatures=runs))
    df = report.table(store, "s")
    assert df["quantize_seconds"].dropna().to_dict() == {0: 2.0}
    assert [effort.method for effort in efforts(df)] == ["whole"]
