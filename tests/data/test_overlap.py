"""Identity of what is no plain folder, and images that would calibrate and be scored."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.errors import is_about, refuses
from tests.image_folders import Make, write_image
from vitq.config import RunConfig, signature
from vitq.data import content, describe, eval_set, opening, problems, warnings
from vitq.data.choose import evaluation_indices
from vitq.data.source import Source
from vitq.errors import DataError
from vitq.progress import Progress


def _shared(config: RunConfig) -> bool:
    return any(is_about(problem, "data.calib_split", config.data.calib_split) for problem in problems(config))


def _tar(folder: Path, path: Path) -> str:
    with tarfile.open(path, "w") as archive:
        archive.add(folder, arcname=".")
    return str(path)


@pytest.mark.parametrize("how", ["copy", "symlink", "hardlink", "folder"])
def test_the_same_images_in_both_splits(make: Make, root: Path, how: str) -> None:
    shutil.rmtree(root / "train")
    for path in sorted(root.glob("val/*/*.png")):
        place = root / "train" / path.parent.name / f"other_{path.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        if how == "copy":
            shutil.copy(path, place)
        elif how == "symlink":
            place.symlink_to(path)
        elif how == "hardlink":
            os.link(path, place)
    if how == "folder":
        shutil.rmtree(root / "train")
        (root / "train").symlink_to(root / "val")
    config = make(data={"root": str(root)})
    assert _shared(config)
    meant = make(data={"root": str(root), "allow_overlap": True})
    assert problems(meant) == []
    assert any("share images" in line for line in warnings(meant))
    assert signature(meant) == signature(config)


def test_a_shared_image_that_does_not_calibrate_is_a_warning(make: Make, root: Path) -> None:
    shutil.copy(root / "val" / "n1" / "img8.png", root / "train" / "n1" / "twin.png")
    found = [
        (bool(problems(config)), bool(warnings(config)))
        for config in (make(data={"root": str(root)}, seed=seed, calib={"size": 3}) for seed in range(12))
    ]
    assert set(found) == {(True, True), (False, True)}


def test_full_precision_calibrates_with_nothing(make: Make, root: Path) -> None:
    assert problems(make(data={"root": str(root), "calib_split": "val"}, method={"kinds": {}})) == []


def test_archives_are_known_by_content(make: Make, root: Path, tmp_path: Path) -> None:
    first = _tar(root, tmp_path / "a.tar")
    config = make(data={"root": first})
    facts = describe(config)
    assert (facts.calib_images, facts.eval_images, facts.num_classes) == (11, 6, 3)
    assert problems(config) == []
    plain = eval_set(make(data={"root": str(root)}), Progress())
    assert np.array_equal(eval_set(config, Progress()).images, plain.images)
    moved = tmp_path / "moved.tar"
    os.rename(first, moved)
    assert describe(make(data={"root": str(moved)})) == facts
    # Same names, sizes and times, other pixels: one byte inside an image.
    times = moved.stat()
    bytes_ = bytearray(moved.read_bytes())
    bytes_[bytes_.index(b"IDAT") + 20] ^= 1
    moved.write_bytes(bytes_)
    os.utime(moved, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert describe(make(data={"root": str(moved)})).fingerprint != facts.fingerprint


def test_an_archive_without_split_folders_is_one_split(make: Make, root: Path, tmp_path: Path) -> None:
    archive = _tar(root / "val", tmp_path / "val.tar")
    assert _shared(make(data={"root": archive}))
    assert problems(make(data={"root": archive}, method={"kinds": {}})) == []


def test_links_and_broken_archives(make: Make, root: Path, tmp_path: Path) -> None:
    (root / "val" / "n1" / "link.png").symlink_to("img8.png")
    with refuses(DataError, value="val/n1/link.png"):
        describe(make(data={"root": _tar(root, tmp_path / "a.tar")}))
    (tmp_path / "b.tar").write_bytes(b"no archive at all" * 100)
    with refuses(DataError, key="data.root", value=str(tmp_path / "b.tar")):
        describe(make(data={"root": str(tmp_path / "b.tar")}))


def test_torchvision_folders_are_known_by_names_and_sizes(make: Make, root: Path) -> None:
    config = make(data={"root": str(root), "dataset": "torch/image_folder"})
    before = describe(config).fingerprint
    write_image(root / "val" / "n1" / "img8.png", 77, size=(50, 50))
    assert describe(config).fingerprint != before
    with refuses(DataError, value="holdout", valid=["train", "val"]):
        describe(make(data={"root": str(root), "dataset": "torch/image_folder", "eval_split": "holdout"}))


def test_split_names_that_a_data_set_does_not_heed(make: Make, tmp_path: Path) -> None:
    """torchvision's CIFAR-10 has train and test, and timm takes every other name for test."""
    import hashlib
    import pickle

    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)

    def write(seed: int) -> list[tuple[str, str]]:
        names = []
        for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
            pixels = generator.integers(0, 256, (10, 3072), dtype=np.uint8)
            raw = pickle.dumps({"data": pixels, "labels": list(range(10))})
            (folder / name).write_bytes(raw)
            names.append((name, hashlib.md5(raw).hexdigest()))
        raw = pickle.dumps({"label_names": [str(i) for i in range(10)]})
        (folder / CIFAR10.meta["filename"]).write_bytes(raw)
        return [*names, ("meta", hashlib.md5(raw).hexdigest())]

    def config(**data: str) -> RunConfig:
        return make(data={"root": str(tmp_path / "cifar"), "dataset": "torch/cifar10", "num_classes": 10, **data})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
        write(0)
        first = describe(config(eval_split="test"))
        assert (first.calib_images, first.eval_images) == (50, 10)
        assert problems(config(eval_split="test")) == []
        assert _shared(config(calib_split="calib", eval_split="test"))
        write(1)
        assert describe(config(eval_split="test")).fingerprint != first.fingerprint


def test_hashes_of_large_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_LARGE", 1)
    path = tmp_path / "x.tar"
    path.write_bytes(b"first")
    first = content.file_hash(path, tmp_path / "cache")
    content._hash.cache_clear()
    monkeypatch.setattr(content, "_read", lambda path: pytest.fail("read again"))
    assert content.file_hash(path, tmp_path / "cache") == first
    monkeypatch.undo()
    path.write_bytes(b"other")
    assert content.file_hash(path, tmp_path / "cache") != first


@pytest.mark.parametrize("order", ["sorted", "turns", "shuffled"])
def test_a_limited_evaluation_covers_the_classes(order: str) -> None:
    labels = np.repeat(np.arange(20), 5)
    if order == "turns":
        labels = np.arange(100) % 20
    if order == "shuffled":
        labels = np.random.default_rng(0).permutation(labels)
    source = Source(labels, "f" * 16, None)
    for count in (1, 7, 20, 40, 99, 100, 1000):
        chosen = evaluation_indices(source, count, spread=True)
        assert len(chosen) == min(count, 100)
        assert (np.diff(chosen) > 0).all()
        assert len(set(labels[chosen])) == min(count, 20)


def test_which_images_are_scored_is_part_of_the_identity(make: Make, root: Path) -> None:
    def config(**data: object) -> RunConfig:
        return make(data={"root": str(root), **data})

    first, spread = config(eval_limit=3), config(eval_limit=3, eval_choice="spread")
    assert eval_set(first, Progress()).labels.tolist() == [0, 0, 1]
    assert eval_set(spread, Progress()).labels.tolist() == [0, 1, 2]
    assert signature(first) != signature(spread)
    assert signature(first) == signature(config(eval_limit=3, eval_choice="first"))
    assert "eval_choice" not in first.to_dict()["data"]


def test_gray_models_and_images_that_are_no_squares(make: Make, root: Path) -> None:
    gray = make(
        data={"root": str(root)},
        model={"kwargs": {"in_chans": 1}, "input_size": [32, 24], "mean": [0.4] * 3, "std": [0.2] * 3},
    )
    assert problems(gray) == []
    images = eval_set(gray, Progress())
    assert images.images.shape == (6, 1, 32, 24)
    pixels, _ = next(images.batches(6, "cpu"))
    assert pixels.shape == (6, 1, 32, 24)
    assert float(pixels[0, 0, 0, 0]) == pytest.approx((images.images[0, 0, 0, 0] / 255 - 0.4) / 0.2, abs=1e-5)
    uneven = make(data={"root": str(root)}, model={"kwargs": {"in_chans": 1}, "mean": [0.1, 0.2, 0.3]})
    assert any(is_about(problem, "model.kwargs.in_chans", 1) for problem in problems(uneven))
    four = problems(make(model={"kwargs": {"in_chans": 4}}))
    assert any(is_about(problem, "model.kwargs.in_chans", 4, [1, 3]) for problem in four)


def test_the_newest_image_of_both_splits(make: Make, root: Path) -> None:
    """Of a folder, which names and sizes stand for; an archive is known by its content."""
    images = sorted(root.glob("*/*/*.png"))
    for number, path in enumerate(images):
        os.utime(path, (0, 1000 + number))
    assert describe(make(data={"root": str(root)})).newest == 1000 + len(images) - 1
    os.utime(images[0], (0, 5000))
    opening._listed.cache_clear()  # one process lists a folder once
    assert describe(make(data={"root": str(root)})).newest == 5000
    assert describe(make(data={"root": _tar(root, root.parent / "all.tar")})).newest == 0
