"""Images held out of calibration: scored in place of the evaluation split, which then may even be absent."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.errors import is_about, refuses
from tests.image_folders import Make
from vitq.config import signature
from vitq.data import calibration_set, choose, describe, eval_set, problems
from vitq.data.source import Source
from vitq.errors import DataError
from vitq.progress import Progress


@given(
    labels=st.lists(st.integers(0, 4), min_size=4, max_size=60),
    share=st.floats(0.1, 0.6),
    seed=st.integers(0, 5),
    balanced=st.booleans(),
)
def test_no_held_out_image_calibrates(labels: list[int], share: float, seed: int, balanced: bool) -> None:
    source = Source(labels, "f" * 16, None)
    count = max(1, int(share * len(labels)))
    size = max(1, (len(labels) - count) // 2)
    held = choose.held_out_indices(source, count)
    calibrating = choose.calibration_indices(source, size, seed, balanced, count)
    assert (len(set(held)), len(set(calibrating))) == (count, size)
    assert not set(held) & set(calibrating)
    assert np.array_equal(held, np.sort(held))


def test_the_same_images_are_held_out_whatever_the_seed(make: Make) -> None:
    sets = [eval_set(make(seed=seed, data={**DIGITS, "held_out": 20}), Progress()) for seed in (0, 1)]
    assert sets[0].fingerprint == sets[1].fingerprint
    assert len(sets[0]) == 20
    assert np.bincount(sets[0].labels).tolist() == [2] * 10


DIGITS = {"name": "digits", "dataset": "digits", "calib_split": "calib", "eval_split": "test", "num_classes": 10}


def test_the_evaluation_split_may_be_absent(make: Make, root: Path) -> None:
    shutil.rmtree(root / "val")
    config = make(data={"root": str(root), "held_out": 3})
    assert problems(config) == []
    facts = describe(config)
    calib, evaluation = facts.fingerprint.split("-")
    assert calib == evaluation
    assert (facts.calib_images, facts.eval_images) == (11, 3)
    held, calibrating = eval_set(config, Progress()), calibration_set(config, Progress())
    images = {image.tobytes() for image in held.images} | {image.tobytes() for image in calibrating.images}
    assert len(images) == len(held) + len(calibrating) == 3 + 6


@pytest.mark.parametrize(
    ("held_out", "key", "value"), [(6, "calib.size", 6), (11, "data.held_out", 11), (40, "data.held_out", 40)]
)
def test_too_many_held_out(make: Make, root: Path, held_out: int, key: str, value: int) -> None:
    (problem,) = problems(make(data={"root": str(root), "held_out": held_out}))
    assert is_about(problem, key, value)


def test_more_than_there_are(make: Make) -> None:
    with refuses(DataError, "data.held_out", 700):
        eval_set(make(data={**DIGITS, "held_out": 700}), Progress())


def test_held_out_is_part_of_the_identity_and_absent_by_default(make: Make) -> None:
    plain = make()
    assert "held_out" not in plain.to_dict()["data"]
    assert signature(plain) != signature(make(data={**DIGITS, "held_out": 20}))
