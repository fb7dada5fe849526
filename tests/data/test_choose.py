"""The choice of calibration images."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.errors import refuses
from vitq.data.choose import choose
from vitq.errors import DataError


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(0, 5), st.data())
def test_balanced_as_far_as_the_split_allows(labels: list[int], seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(labels)))
    chosen = choose(np.array(labels), size, seed, balanced=True)
    assert len(set(chosen.tolist())) == size
    have = np.bincount(labels, minlength=7)
    got = np.bincount(np.array(labels)[chosen], minlength=7)
    for a in range(7):
        for b in range(7):
            # A class with fewer images than another has none left.
            assert got[a] >= got[b] - 1 or got[a] == have[a]


def test_more_classes_than_images() -> None:
    labels = np.repeat(np.arange(1000), 3)
    chosen = choose(labels, 32, 0, balanced=True)
    assert len(set(labels[chosen].tolist())) == 32


def test_seed_decides() -> None:
    labels = np.arange(100) % 10
    for balanced in (True, False):
        first = choose(labels, 20, 1, balanced)
        assert np.array_equal(first, choose(labels, 20, 1, balanced))
        assert set(first.tolist()) != set(choose(labels, 20, 2, balanced).tolist())


def test_unbalanced_is_a_plain_draw() -> None:
    labels = np.array([0] * 990 + [1] * 10)
    share = np.mean([np.mean(labels[choose(labels, 100, seed, balanced=False)]) for seed in range(40)])
    assert share < 0.03
    assert np.mean(labels[choose(labels, 20, 0, balanced=True)]) == 0.5


def test_too_many() -> None:
    with refuses(DataError, key="calib.size", value=4):
        choose(np.zeros(3), 4, 0, balanced=True)


def test_a_large_split_is_quick() -> None:
    """1.28 million labels: choosing must not be what a run waits for."""
    import time

    labels = np.random.default_rng(0).integers(0, 1000, 1_281_167)
    start = time.process_time()
    assert len(choose(labels, 1024, 0, balanced=True)) == 1024
    assert time.process_time() - start < 5
