"""Which of two methods is better: tests over images, against references that do it the slow way."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tests.errors import command_refuses, refuses
from vitq import report
from vitq.config import RunConfig
from vitq.errors import VitqError
from vitq.report import latex, markdown
from vitq.report.comparison import answers, interval, pairwise, sign_flip
from vitq.store import Store


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=10))
def test_the_test_over_images_is_exact(values: list[int]) -> None:
    total = abs(sum(values))
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in
            itertools.product((-1, 1), repeat=len(values))]  # fmt: skip
    assert sign_flip(np.array(values)) == pytest.approx(np.mean([s >= total for s in sums]), abs=1e-9)


@given(st.integers(0, 300), st.integers(0, 300))
def test_with_one_seed_it_is_mcnemar(gained: int, lost: int) -> None:
    values = np.array([1] * gained + [-1] * lost + [0] * 50)
    expected = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert sign_flip(values) == pytest.approx(expected, abs=1e-9)


def test_the_interval_covers_what_a_plain_bootstrap_covers() -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(-3, 4, 500)
    mean, low, high = interval(values)
    plain = np.array([rng.choice(values, 500).mean() for _ in range(4000)])
    assert mean == values.mean()
    assert (low, high) == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=0.02)


def test_all_pairs_over_common_seeds(seeded: Store) -> None:
    pairs = pairwise(seeded, report.table(seeded, "demo"))
    assert len(pairs) == 4 * 3
    row = pairs[(pairs["bits"] == "W4A4") & (pairs["a"] == "minmax") & (pairs["b"] == "repq_vit")].iloc[0]
    assert (row["n"], row["seeds"]) == (400, 3)
    assert row["difference"] == pytest.approx(-12.0)
    assert row["low"] < -12 < row["high"] < 0
    assert row["p"] <= row["p_holm"] < 1e-6
    partly = pairs[(pairs["bits"] == "W3A3") & (pairs["b"] == "percentile")].iloc[0]
    assert partly["seeds"] == 2  # one seed of percentile failed


def test_the_answer_in_one_line(seeded: Store) -> None:
    pairs = pairwise(seeded, report.table(seeded, "demo"))
    lines = answers(pairs, "repq_vit", "minmax")
    assert len(lines) == 4
    assert "W4A4, 32 calibration images: repq_vit is better than minmax: +12.00 points [" in lines[2]
    assert "minmax is worse than repq_vit: −12.00 points [" in answers(pairs, "minmax", "repq_vit")[2]
    assert any("no difference shown" in line for line in lines)
    with refuses(VitqError, key="method", value="repq", valid=["repq_vit"]):
        answers(pairs, "repq", "minmax")


@pytest.mark.parametrize(
    ("pair", "key", "value"),
    [
        (("repq_vit", "repq_vit"), "--compare", ("repq_vit", "repq_vit")),
        (("minmax", "fp32"), "--compare", "fp32"),
        (("fp32", "minmax"), "--compare", "fp32"),
        (("repq", "minmax"), "method", "repq"),
    ],
)
def test_a_pair_that_is_none_is_refused(seeded: Store, pair: tuple[str, str], key: str, value: object) -> None:
    words = ["report", "demo", "--compare", *pair, "--runs-dir", str(seeded.root)]
    command_refuses(words, key, value, ["minmax", "percentile", "repq_vit"])


def test_two_datasets_are_told_apart(make_config: Callable[..., RunConfig], make_sweep: Callable[..., Store]) -> None:
    other = {"data__name": "others", "data__fingerprint": "cd" * 32}
    store = make_sweep(
        (make_config("a"), 2), (make_config("b"), 90), (make_config("a", **other), 90), (make_config("b", **other), 2)
    )
    df = report.table(store, "demo")
    pairs = pairwise(store, df)
    here, there = answers(pairs, "a", "b")
    assert "vit_digits on digits at W8A8, 32 calibration images: a is better than b" in here
    assert "vit_digits on others at W8A8, 32 calibration images: a is worse than b" in there
    text = markdown.render(df, pairs=pairs)
    assert "| vit_digits on others |" in text
    assert r"vit\_digits on others" in latex.pairs_table(pairs)


def test_images_that_differ_are_not_compared(
    make_config: Callable[..., RunConfig], make_sweep: Callable[..., Store]
) -> None:
    store = make_sweep((make_config("a"), 3), (make_config("b"), 5))
    run = store.run(store.read_sweep("demo").signatures[0])
    arrays = run.read_predictions()
    run.write_predictions(arrays | {"label": arrays["label"][::-1].copy()})
    (row,) = pairwise(store, report.table(store, "demo")).to_dict("records")
    assert row["note"] == "not the same images"
    assert np.isnan(row["p_holm"])
    assert answers(pairwise(store, report.table(store, "demo")), "a", "b")[0].endswith("not the same images")
