"""Where images come from: timm's streams, torchvision's folders, tar files, a backend that is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.errors import refuses
from tests.image_folders import Make
from vitq.data import calibration_set, describe, eval_set, facts, sets, source
from vitq.errors import DataError
from vitq.progress import Progress


class _Numbered:
    """An iterable dataset as timm builds them for WebDataset."""

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        from PIL import Image

        for number in range(40):
            yield Image.new("L", (40, 40), number), number % 4

    def __len__(self) -> int:
        return 40


def test_streams(make: Make, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_stream(data: Any, split: str) -> source.Source:
        return source.StreamedSource(_Numbered(), "f" * 16, 40)

    monkeypatch.setattr(facts, "open_source", open_stream)
    monkeypatch.setattr(sets, "open_source", open_stream)
    config = make(data={"root": str(root), "dataset": "wds/numbers", "num_classes": 4, "eval_limit": 12})
    assert describe(config).calib_images == 40
    images = eval_set(config, Progress())
    assert images.images[:, 0, 0, 0].tolist() == list(range(12))
    assert images.labels.tolist() == [n % 4 for n in range(12)]
    calib = calibration_set(config, Progress())
    assert len(set(calib.images[:, 0, 0, 0].tolist())) == 6
    assert np.array_equal(calib.images[:, 0, 0, 0] % 4, calib.labels)
    short = source.StreamedSource(_Numbered(), "f" * 16, 50)
    with refuses(DataError, value=49, valid=[50]):
        list(short.pick(np.array([3, 45])))


def test_torchvision_folder_and_tar_through_timm(make: Make, root: Path, tmp_path: Path) -> None:
    plain = eval_set(make(data={"root": str(root)}), Progress())
    config = make(data={"root": str(root), "dataset": "torch/image_folder"})
    assert describe(config).eval_images == 6
    other = eval_set(config, Progress())
    assert {p.tobytes() for p in other.images} == {p.tobytes() for p in plain.images}
    import tarfile

    with tarfile.open(tmp_path / "val.tar", "w") as tar:
        tar.add(root / "val", arcname=".")
    tarred = eval_set(make(data={"root": str(tmp_path / "val.tar")}), Progress())
    assert np.array_equal(tarred.images, plain.images)
    assert np.array_equal(tarred.labels, plain.labels)


def test_a_backend_that_is_not_installed_says_so(make: Make, root: Path) -> None:
    with refuses(DataError, key="data.dataset", value="tfds/x"):
        describe(make(data={"root": str(root), "dataset": "tfds/x"}))
    with refuses(DataError, key="data.root", value="/nowhere"):
        describe(make(data={"root": "/nowhere", "dataset": "wds/x"}))
