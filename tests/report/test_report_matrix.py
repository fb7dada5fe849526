"""Means, spreads, and the method × bits matrix that every format draws."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from vitq import report
from vitq.config import RunConfig
from vitq.report.accuracy_table import bits_order, matrices, standard_error
from vitq.report.runs_table import COLUMNS
from vitq.store import Store


def one(df: pd.DataFrame, method: str, bits: str) -> pd.Series:
    """The only row of a method at a bit-width."""
    rows = df[(df["method"] == method) & (df["bits"] == bits)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_mean_and_sample_deviation_over_seeds(seeded: Store) -> None:
    cells = report.summary(report.table(seeded, "demo"))
    cell = one(cells, "minmax", "W4A4")
    values = [100 * (392 - wrong) / 400 for wrong in (60, 63, 66)]
    assert cell["top1"] == pytest.approx(np.mean(values))
    assert cell["top1_std"] == pytest.approx(np.std(values, ddof=1))
    assert cell["drop_std"] == pytest.approx(cell["top1_std"])
    assert (cell["n"], cell["runs"], cell["failed"], cell["n_eval"]) == (3, 3, 0, 400)
    partial = one(cells, "percentile", "W3A3")
    assert (partial["n"], partial["runs"], partial["failed"]) == (2, 3, 1)


def test_one_seed_has_no_deviation(store: Store) -> None:
    cells = report.summary(report.table(store, "demo"))
    assert cells["top1_std"].isna().all()


def test_matrix_of_the_demo(store: Store) -> None:
    (matrix,) = matrices(report.table(store, "demo"))
    assert matrix.bits == ["W8A8", "W6A6", "W4A4", "W3A3"]
    assert [row.method for row in matrix.rows] == ["minmax", "percentile", "repq_vit"]
    assert matrix.fp_top1 == 98.0
    assert matrix.n_eval == 400
    assert not matrix.with_calib
    cells = {row.method: row.cells for row in matrix.rows}
    assert cells["percentile"][3] is not None
    assert cells["percentile"][3].waiting == "failed"
    assert cells["percentile"][1] is not None
    assert cells["percentile"][1].waiting == "pending"
    best = [[cell is not None and cell.best for cell in row.cells] for row in matrix.rows]
    assert best == [[False] * 4, [False] * 4, [True] * 4]
    assert matrix.sizes[0] == pytest.approx((0.21, 0.213))


def test_ties_are_both_best_and_a_single_row_is_not_a_contest(
    make_config: Callable[..., RunConfig], make_sweep: Callable[..., Store]
) -> None:
    store = make_sweep((make_config("a"), 5), (make_config("b"), 5), (make_config("c"), 6))
    (matrix,) = matrices(report.table(store, "demo"))
    assert [row.cells[0] is not None and row.cells[0].best for row in matrix.rows] == [True, True, False]
    alone = make_sweep((make_config("a"), 5))
    (matrix,) = matrices(report.table(alone, "demo"))
    assert matrix.rows[0].cells[0] is not None
    assert not matrix.rows[0].cells[0].best


def test_the_best_cell_is_bold_where_two_seeds_end_in_a_tie_of_decimals() -> None:
    """pandas and Python round 81.315 apart; the cell shows Python's."""
    row = dict.fromkeys(COLUMNS, 1.0) | {"model": "m", "data": "d", "bits": "W4A4", "calib": 32, "state": "done"}
    tops = (("a", 0, 81.31), ("a", 1, 81.32), ("b", 0, 60.0), ("b", 1, 60.0))
    df = pd.DataFrame([row | {"method": m, "seed": s, "top1": t} for m, s, t in tops])
    (matrix,) = matrices(df)
    assert [cell is not None and cell.best for row in matrix.rows for cell in row.cells] == [True, False]


def test_calibration_sizes_are_rows_and_models_are_matrices(
    make_config: Callable[..., RunConfig], make_sweep: Callable[..., Store]
) -> None:
    store = make_sweep(
        (make_config("a", calib=32), 5), (make_config("a", calib=64), 4), (make_config("a", bits=4, calib=64), 4),
        (make_config("a", model__name="swin_digits"), 1),
    )  # fmt: skip
    vit, swin = matrices(report.table(store, "demo"))
    assert [(row.method, row.calib) for row in vit.rows] == [("a", 32), ("a", 64)]
    assert vit.with_calib
    assert vit.rows[0].cells[1] is None, "nothing was planned there"
    assert swin.title == "swin_digits on digits"
    assert not swin.with_calib
    assert vit.fp_top1 == 98.0, "known from the runs when the sweep has no full-precision run"


def test_bits_are_ordered_from_wide_to_narrow() -> None:
    labels = ["W3A3", "W4A4*", "W4A8", "W32A8", "W8A8", "W4A4", "W4A4* (kinds.probs=8)"]
    ordered = ["W32A8", "W8A8", "W4A8", "W4A4", "W4A4*", "W4A4* (kinds.probs=8)", "W3A3"]
    assert sorted(labels, key=bits_order) == ordered


def test_standard_error() -> None:
    assert standard_error(50, 10_000) == pytest.approx(0.5)
    assert standard_error(78.77, 650) == pytest.approx(1.604, abs=1e-3)
    assert standard_error(100, 650) == 0
    assert math.isnan(standard_error(50, 0))
    assert math.isnan(standard_error(math.nan, 10))
