"""The decoded sets: right pixels, right order, decoded once, never half a file."""

from __future__ import annotations

import dataclasses
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.data import create_dataset, create_transform

from tests.errors import refuses
from tests.forked import Forked
from tests.image_folders import Make, write_image
from vitq.config import RunConfig
from vitq.data import calibration_set, decode, describe, eval_set, sets, source
from vitq.data.images import ImageSet
from vitq.errors import DataError
from vitq.progress import Progress


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it, and from then on decoding, listing and opening the data fail."""

    def forbid() -> None:
        def fail(*_: object, **__: object) -> None:
            raise AssertionError("decoded again")

        monkeypatch.setattr(source.Source, "image", fail)
        monkeypatch.setattr(source.StreamedSource, "pick", fail)
        monkeypatch.setattr(sets, "open_source", fail)
        monkeypatch.setattr(sets, "decode", fail)

    return forbid


@pytest.mark.parametrize("kind", ["digits", "folder"])
def test_second_use_decodes_nothing(make: Make, root: Path, no_decoding: Any, kind: str) -> None:
    config = _planned(make() if kind == "digits" else make(data={"root": str(root)}))
    first = eval_set(config, Progress()), calibration_set(config, Progress())
    no_decoding()
    second = eval_set(config, Progress()), calibration_set(config, Progress())
    for a, b in zip(first, second, strict=True):
        assert isinstance(b.images, np.memmap)
        assert np.array_equal(a.images, b.images)
        assert np.array_equal(a.labels, b.labels)
        assert a.fingerprint == b.fingerprint


def test_a_planned_run_with_a_full_cache_does_not_need_the_images(make: Make, root: Path, no_decoding: Any) -> None:
    config = make(data={"root": str(root)})
    config = _planned(config)
    eval_set(config, Progress())
    root.rename(root.parent / "unmounted")
    no_decoding()
    assert len(eval_set(config, Progress())) == 6


def test_pixels_and_order_are_those_of_timm(make: Make, root: Path, class_map: Path) -> None:
    config = make(
        model={"crop_pct": 0.9, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
        data={"root": str(root), "class_map": str(class_map), "num_classes": 5},
    )
    images = eval_set(config, Progress())
    dataset = create_dataset("", root=str(root), split="val", class_map={"n1": 1, "n2": 2, "n10": 4})
    dataset.transform = create_transform(
        32, interpolation="bicubic", crop_pct=0.9, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
    )
    expected = torch.stack([pixels for pixels, _ in dataset])
    batches = list(images.batches(4, "cpu"))
    assert [len(labels) for _, labels in batches] == [4, 2]
    assert all(pixels.dtype == torch.float32 and labels.dtype == torch.int64 for pixels, labels in batches)
    torch.testing.assert_close(torch.cat([pixels for pixels, _ in batches]), expected, atol=2e-6, rtol=0)
    assert images.labels.tolist() == [label for _, label in dataset]


def test_data_mean_replaces_the_models(make: Make, root: Path) -> None:
    images = eval_set(make(data={"root": str(root), "mean": [0, 0, 0], "std": [1, 1, 1]}), Progress())
    pixels = next(images.batches(2, "cpu"))[0]
    torch.testing.assert_close(pixels, torch.from_numpy(images.images[:2] / np.float32(255)))


def test_calibration_is_exact_balanced_and_from_its_split(make: Make, root: Path) -> None:
    images = calibration_set(make(data={"root": str(root)}, calib={"size": 6}), Progress())
    assert np.bincount(images.labels).tolist() == [2, 2, 2]
    everything = sets.split_set(
        make().model, make(data={"root": str(root)}).data, "train", root.parent / "c", Progress()
    )
    known = {pixels.tobytes() for pixels in everything.images}
    assert len({pixels.tobytes() for pixels in images.images} & known) == 6


def test_only_the_chosen_images_are_decoded(make: Make, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = source.Source.image

    def watched(self: source.Source, index: int, mode: str = "RGB") -> Any:
        seen.append(index)
        return real(self, index, mode)

    monkeypatch.setattr(source.Source, "image", watched)
    calibration_set(make(data={"root": str(root)}, calib={"size": 4}), Progress())
    assert len(seen) == 4


def test_seeds_choose_differently(make: Make) -> None:
    sets_ = [calibration_set(make(seed=seed, calib={"size": 30}), Progress()) for seed in (0, 1, 0)]
    assert np.array_equal(sets_[0].images, sets_[2].images)
    assert not np.array_equal(sets_[0].images, sets_[1].images)
    assert all(np.bincount(s.labels, minlength=10).tolist() == [3] * 10 for s in sets_)


def test_augmentation_is_seeded_and_leaves_global_generators_alone(make: Make, root: Path, tmp_path: Path) -> None:
    config = make(data={"root": str(root)}, calib={"augment": True, "size": 6})
    clean = calibration_set(make(data={"root": str(root)}), Progress())
    state = random.getstate(), torch.get_rng_state()
    first = calibration_set(config, Progress())
    assert random.getstate() == state[0]
    assert torch.equal(torch.get_rng_state(), state[1])
    random.seed(99)
    torch.manual_seed(99)
    again = calibration_set(dataclasses.replace(config, cache_dir=str(tmp_path / "other")), Progress())
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.labels, clean.labels)
    assert not np.array_equal(first.images, clean.images)
    other = calibration_set(dataclasses.replace(config, seed=1), Progress())
    assert not np.array_equal(first.images, other.images)


def test_eval_limit_is_a_prefix(make: Make) -> None:
    full = eval_set(make(), Progress())
    short = eval_set(make(data={**make().to_dict()["data"], "eval_limit": 7}), Progress())
    assert np.array_equal(full.images[:7], short.images)


def test_preprocessing_is_part_of_the_key(make: Make, root: Path) -> None:
    keys = {
        eval_set(make(data={"root": str(root)}, model=change), Progress()).fingerprint
        for change in ({}, {"crop_pct": 0.9}, {"interpolation": "bilinear"}, {"input_size": 24}, {"mean": [0, 0, 0]})
    }
    assert len(keys) == 4  # mean and std are applied after the cache


def test_a_broken_image_is_named_and_nothing_is_left(make: Make, root: Path, tmp_path: Path) -> None:
    (root / "val" / "n2" / "img8.png").write_bytes(b"\x89PNG not really")
    with refuses(DataError, value=repr(str(root / "val" / "n2" / "img8.png"))):
        eval_set(make(data={"root": str(root)}), Progress())
    assert [p.name for p in (tmp_path / "cache" / "images").iterdir() if p.suffix != ".lock"] == []


def test_images_that_changed_since_the_plan(make: Make, root: Path) -> None:
    config = _planned(make(data={"root": str(root)}))
    write_image(root / "val" / "n2" / "new.png", 5)
    with refuses(DataError, key="data.fingerprint"):
        eval_set(config, Progress())


def test_a_hand_written_fingerprint_is_refused(make: Make, root: Path) -> None:
    with refuses(DataError, key="data.fingerprint", value="abc"):
        eval_set(make(data={"root": str(root), "fingerprint": "abc"}), Progress())


def test_labels_outside_the_classes(make: Make, root: Path) -> None:
    with refuses(DataError, key="data.num_classes", value=2):
        eval_set(make(data={"root": str(root), "num_classes": 2}), Progress())


def test_a_cut_entry_is_made_anew(make: Make, tmp_path: Path) -> None:
    whole = np.array(eval_set(make(), Progress()).images)
    path = next((tmp_path / "cache" / "images").glob("*/images.npy"))
    path.write_bytes(path.read_bytes()[:5000])
    assert np.array_equal(eval_set(make(), Progress()).images, whole)


def test_unwritable_cache(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refuses(DataError, key="cache_dir"):
        eval_set(make(cache_dir=str(tmp_path / "file" / "cache")), Progress())


def test_a_full_disk_is_an_error_and_not_a_crash(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decode.os, "pwrite", full)
    with refuses(DataError, key="cache_dir") as raised:
        eval_set(make(), Progress())
    assert getattr(raised.value.__cause__, "errno", None) == 28
    assert list((tmp_path / "cache" / "images").glob("*.tmp")) == []


def die_while_decoding(config: RunConfig) -> int:
    real, seen = source.Source.image, []

    def image(self: source.Source, index: int, mode: str) -> Any:
        seen.append(index)
        return os._exit(9) if len(seen) > 300 else real(self, index, mode)

    pytest.MonkeyPatch().setattr(source.Source, "image", image)
    eval_set(config, Progress())
    return 0


def test_killed_while_decoding_leaves_no_entry(make: Make, tmp_path: Path) -> None:
    assert Forked(tmp_path, die_while_decoding, make()).wait() == 9
    left = [p.suffix for p in (tmp_path / "cache" / "images").iterdir()]
    assert ".tmp" in left
    assert len(eval_set(make(), Progress())) == 596
    assert not list((tmp_path / "cache" / "images").glob("*.tmp"))


def test_progress_counts_images(make: Make) -> None:
    class Listener(Progress):
        stages: list[tuple[str, int | None]] = []
        units = 0

        def stage(self, name: str, total: int | None = None) -> None:
            self.stages.append((name, total))

        def advance(self, units: int = 1, note: str = "") -> None:
            self.units += units

    listener = Listener()
    eval_set(make(), listener)
    assert listener.stages == [("decode test", 596)]
    assert listener.units == 596


def test_take_keeps_the_order_asked_for(make: Make) -> None:
    images = eval_set(make(), Progress())
    some = images.take([5, 2, 5])
    assert np.array_equal(some.images, images.images[[5, 2, 5]])
    assert some.labels.tolist() == images.labels[[5, 2, 5]].tolist()
    assert some.fingerprint not in (images.fingerprint, images.take([5, 2]).fingerprint)
    with refuses(ValueError, key="batch_size", value=0):
        next(images.batches(0, "cpu"))


def _planned(config: RunConfig) -> RunConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, fingerprint=describe(config).fingerprint))


def test_image_set_is_what_the_package_exports() -> None:
    assert ImageSet.__module__ == "vitq.data.images"
