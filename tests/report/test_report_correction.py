"""Correction over the comparisons that were asked for, and the intervals that belong to it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitq.report.correction import ALPHA, corrected, holm, holm_levels, outcomes, percentiles


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_rejects_where_p_is_below_its_level(p: list[float]) -> None:
    for one, level, after in zip(p, holm_levels(p), holm(p), strict=True):
        if abs(one - level) > 1e-12:  # p_holm multiplies what the level divides
            assert (one < level) == (after < ALPHA)
        assert ALPHA / len(p) <= level <= ALPHA


def test_levels_of_a_worked_example() -> None:
    # 0.005 < .05/4, 0.01 < .05/3, 0.03 > .05/2: stop.
    assert holm_levels([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.05 / 3, 0.025, 0.025, 0.0125])
    assert holm_levels([0.2]) == [0.05]
    assert holm_levels([]) == []


def compared(gained: int, lost: int, images: int, p: float) -> dict[str, object]:
    total = np.array([1] * gained + [-1] * lost + [0] * (images - gained - lost))
    return {"p": p, "seeds": 1, "outcomes": outcomes(total)}


def test_one_question_is_not_corrected_and_many_are() -> None:
    row = compared(40, 20, 400, 0.0135)
    (alone,) = corrected(pd.DataFrame([row])).to_dict("records")
    assert (alone["family"], alone["p_holm"], alone["level"]) == (1, 0.0135, 95.0)
    assert alone["low_holm"] > 0
    many = corrected(pd.DataFrame([row] + [compared(30, 30, 400, 1.0)] * 9)).to_dict("records")
    assert many[0]["p_holm"] == pytest.approx(0.135)
    assert many[0]["level"] == pytest.approx(99.5)
    assert many[0]["low_holm"] < 0 < many[0]["high_holm"], "no difference shown, and the interval says why"


def test_rows_that_cannot_be_compared_are_no_part_of_the_family() -> None:
    rows = [compared(9, 3, 100, 0.146), {"p": np.nan, "seeds": 0, "outcomes": ()}]
    found = corrected(pd.DataFrame(rows))
    assert found["family"].tolist() == [1, 1]
    assert np.isnan(found["p_holm"][1])


def test_the_interval_is_that_of_the_plain_bootstrap() -> None:
    rng = np.random.default_rng(3)
    total = rng.integers(-2, 3, 300)
    plain = np.array([rng.choice(total, 300).mean() for _ in range(4000)]) * 100 / 2
    expected = np.percentile(plain, [0.5, 99.5])
    assert percentiles(outcomes(total), 2, 0.01) == pytest.approx(expected, abs=2.0)
    assert percentiles(outcomes(total), 2, 0.2) == pytest.approx(np.percentile(plain, [10, 90]), abs=1.0)
