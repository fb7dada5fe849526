"""Paired comparison: against brute force, against textbook values, and what pairs with what."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tests.errors import refuses
from vitq import report
from vitq.config import RunConfig
from vitq.report.correction import holm
from vitq.report.paired_test import compare, paired
from vitq.store import Store

Make = Callable[..., RunConfig]
Sweep = Callable[..., Store]


def outcomes(gained: int, lost: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    method = np.repeat([True, False, True, False], [gained, lost, both, neither])
    baseline = np.repeat([False, True, True, False], [gained, lost, both, neither])
    return method, baseline


def test_the_interval_is_that_of_resampling_images_one_by_one() -> None:
    method, baseline = outcomes(40, 20, 300, 40)
    result = compare(method, baseline)
    rng = np.random.default_rng(1)
    difference = method.astype(int) - baseline.astype(int)
    brute = 100 * difference[rng.integers(0, 400, (10_000, 400))].mean(1)
    assert result.difference == 5.0
    assert (result.gained, result.lost, result.n) == (40, 20, 400)
    assert (result.low, result.high) == pytest.approx(np.percentile(brute, [2.5, 97.5]), abs=0.26)  # one image: 0.25


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        gained, lost, rest = rng.multinomial(500, [0.12, 0.07, 0.81])
        result = compare(*outcomes(gained, lost, rest, 0), resamples=1000)
        hits += result.low <= 5.0 <= result.high
    assert 0.92 <= hits / 400 <= 0.98


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_images(
    gained: int, lost: int, both: int, neither: int
) -> None:
    if gained + lost + both + neither == 0:
        return
    result = compare(*outcomes(gained, lost, both, neither))
    mirror = compare(*outcomes(lost, gained, both, neither))
    assert result.p == pytest.approx(mirror.p)
    assert result.difference == -mirror.difference
    assert result.low <= result.difference <= result.high
    if gained + lost == 0:
        assert result.p == 1.0
        assert result.low == result.high == 0.0
    else:
        assert result.p == pytest.approx(binomtest(lost, gained + lost).pvalue)


def test_textbook_value() -> None:
    """10 against 2 discordant pairs: p = 2 · (1 + 12 + 66) / 4096."""
    assert compare(*outcomes(10, 2, 5, 5)).p == pytest.approx(2 * 79 / 4096)


def test_same_input_same_interval() -> None:
    pair = outcomes(9, 3, 100, 8)
    assert compare(*pair) == compare(*pair)


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((0,), (0,)), ((2, 2), (2, 2))])
def test_shapes_that_do_not_pair(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with refuses(ValueError, key="shapes", value=shapes):
        compare(np.ones(shapes[0], bool), np.ones(shapes[1], bool))


def test_holm_against_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_pairs_agree_in_model_bits_calibration_and_seed(seeded: Store) -> None:
    df = report.table(seeded, "demo")
    out = paired(seeded, df, "minmax")
    # 2 methods × 4 bit-widths × 3 seeds, less the failed and the pending run; the baseline not against itself
    assert len(out) == 2 * 4 * 3 - 2
    assert set(out["method"]) == {"percentile", "repq_vit"}
    assert (out["note"] == "").all()
    row = out[(out["method"] == "repq_vit") & (out["bits"] == "W4A4") & (out["seed"] == 2)].iloc[0]
    assert row["difference"] == pytest.approx(100 * (66 - 18) / 400)
    assert row["n"] == 400
    assert (out["p_holm"] >= out["p"]).all()


def test_full_precision_as_baseline(store: Store) -> None:
    out = paired(store, report.table(store, "demo"), "fp32")
    assert len(out) == 10
    assert set(out["baseline"]) == {"fp32"}
    assert (out["gained"] == 0).all()


def test_what_cannot_be_paired_says_why(make_config: Make, make_sweep: Sweep) -> None:
    store = make_sweep(
        (make_config("minmax"), 5), (make_config("mse"), 3), (make_config("mse", seed=1), 3),
        (make_config("repq_vit"), 3), (make_config("log2"), 3), (make_config("erq"), 3),
    )  # fmt: skip
    df = report.table(store, "demo")
    folder = {m: store.run(s) for m, s in zip(df["method"], df["signature"], strict=True)}
    folder["repq_vit"].predictions_path.unlink()
    folder["log2"].write_predictions({"correct": np.ones(3, bool), "label": np.arange(3)})
    folder["erq"].write_predictions({"correct": np.ones(3, bool)})
    notes = paired(store, df, "minmax").set_index(["method", "seed"])["note"]
    assert notes["mse", 0] == ""
    assert "no finished run of minmax" in notes["mse", 1]
    assert "predictions.npz" in notes["repq_vit", 0]
    assert "not the same images: 3 and 400" in notes["log2", 0]
    assert "lacks label" in notes["erq", 0]


def test_protocols_are_not_mixed_and_variants_pair_with_the_first(make_config: Make, make_sweep: Sweep) -> None:
    steps = [{"method__steps": {"s": {"do": "x", "enabled": enabled}}} for enabled in (True, False)]
    store = make_sweep(
        (make_config("minmax", **steps[0]), 5), (make_config("minmax", **steps[1]), 15),
        (make_config("mse"), 3), (make_config("mse", calib__augment=True), 3),
    )  # fmt: skip
    out = paired(store, report.table(store, "demo"), "minmax")
    first = "minmax (steps.s.enabled=true, calib.augment=false)"
    assert list(out["baseline"][:2]) == [first, first]
    assert list(out["difference"][:2]) == [-2.5, 0.5]
    assert "no finished run of minmax" in out["note"][2], "the baseline was not run with augmentation"
