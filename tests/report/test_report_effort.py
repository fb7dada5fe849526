"""Accuracy against seconds: the front, in table and figure."""

from __future__ import annotations

import pandas as pd

from vitq.report.effort import HEAD, cells, efforts, figures


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
    assert all(len(cells(effort)) == len(HEAD) for effort in found)
    ((model, figure),) = figures(df)
    assert model == "m"
    assert [trace.name for trace in figure.data if trace.name] == ["quick", "worse", "slow", "equal"]
    assert list(figure.data[1].x) == [1.0, 100.0], "the front of W4A4"


def test_nothing_to_draw() -> None:
    assert figures(table(("one", "W4A4", 0, 1.0, 60.0))) == []
    assert efforts(table(("one", "W4A4", 0, float("nan"), 60.0))) == []
