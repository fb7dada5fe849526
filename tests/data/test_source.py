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
from vitq.data.opening import open_source
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
    def open_stream(data: Any, split: str, cache_dir: Any) -> source.Source:
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
        open_source(make(data={"root": str(root), "dataset": "tfds/x"}).data, "validation")
    with refuses(DataError, key="data.root", value="/nowhere"):
        describe(make(data={"root": "/nowhere", "dataset": "wds/x"}))


class _Table(list[dict[str, Any]]):
    """A split of Hugging Face's `datasets`, as its Arrow files hold it."""

    def __init__(self, files: list[Path], split: str, images: list[bytes | None]):
        super().__init__({"image": {"bytes": image, "path": "0.png"}, "label": n % 2} for n, image in enumerate(images))
        self.cache_files, self.split = [{"filename": str(file)} for file in files], split


class _HuggingFace:
    """What timm makes of it."""

    image_key = "image"

    def __init__(self, table: _Table):
        self.dataset, self.reader = table, self

    def __len__(self) -> int:
        return len(self.dataset)

    def iter_targets(self) -> Iterator[int]:
        return (row["label"] for row in self.dataset)


def test_hugging_faces_tables_are_known_by_their_files(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.arrow"

    def fingerprint(content: bytes, split: str = "validation", images: tuple[bytes | None, ...] = (b"1", b"2")) -> str:
        file.write_bytes(content)
        table = _Table([file] if content else [], split, list(images))
        monkeypatch.setattr("timm.data.create_dataset", lambda *args, **kwargs: _HuggingFace(table))
        config = make(data={"root": None, "dataset": "hfds/lab/flowers", "num_classes": 2})
        return open_source(config.data, "validation", None).fingerprint

    assert fingerprint(b"one") == fingerprint(b"one")
    assert fingerprint(b"one") != fingerprint(b"two")
    assert fingerprint(b"one") != fingerprint(b"one", "validation[:50%]")
    # Nothing on this disk says which images these are.
    for unknown in ({"content": b""}, {"content": b"one", "images": (None, None)}):
        with refuses(DataError, key="data.dataset", value="hfds/lab/flowers"):
            fingerprint(**unknown)
