"""What lies in a split, as people have it: links, hidden folders, other suffixes, pixels of other kinds."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.errors import is_about, refuses
from tests.image_folders import Make
from vitq.config import signature
from vitq.data import describe, eval_set, listing, problems, warnings
from vitq.data.opening import open_source
from vitq.errors import DataError
from vitq.progress import Progress


@pytest.mark.parametrize("target", ["/nowhere/x.png", "gone.png"])
def test_a_link_that_leads_nowhere_is_named(make: Make, root: Path, target: str) -> None:
    (root / "val" / "n1" / "gone.png").symlink_to(target)
    with refuses(DataError, value=["n1/gone.png"]):
        describe(make(data={"root": str(root)}))


def test_a_class_folder_that_is_a_dangling_link_is_named(make: Make, root: Path) -> None:
    (root / "val" / "n4").symlink_to("/nowhere/n4")
    with refuses(DataError, value=["n4"]):
        describe(make(data={"root": str(root)}))


def test_a_circle_of_links_is_named_and_other_links_are_followed(make: Make, root: Path, tmp_path: Path) -> None:
    before = describe(make(data={"root": str(root)}))
    (root / "val" / "n1").rename(tmp_path / "n1")
    (root / "val" / "n1").symlink_to(tmp_path / "n1")
    assert describe(make(data={"root": str(root)})) == before
    (tmp_path / "n1" / "up").symlink_to(root / "val")
    with refuses(DataError, value=str(root / "val" / "n1" / "up")):
        describe(make(data={"root": str(root)}))


def test_a_folder_that_cannot_be_read_is_an_error(make: Make, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("n2"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    with refuses(DataError, value=str(root / "train" / "n2")) as raised:
        open_source(make(data={"root": str(root)}).data, "train")
    assert isinstance(raised.value.__cause__, PermissionError)


def test_what_is_left_out_is_counted_and_changes_nothing(make: Make, root: Path) -> None:
    before = describe(make(data={"root": str(root)}))
    assert warnings(make(data={"root": str(root)})) == []
    shutil.copytree(root / "val" / "n1", root / "val" / "n1" / ".ipynb_checkpoints")
    for name in ("a.webp", "b.webp", "._img8.png", ".DS_Store", "Thumbs.db", "notes"):
        (root / "val" / "n2" / name).write_bytes(b"")
    config = make(data={"root": str(root)})
    assert describe(config) == before
    assert problems(config) == []
    other, hidden = warnings(config)
    assert "3 files" in other
    assert "2 .webp, 1 no suffix" in other
    assert "n1/.ipynb_checkpoints, n2/._img8.png" in hidden


def test_a_hidden_class_that_the_map_names_counts(make: Make, root: Path, tmp_path: Path) -> None:
    (root / "val" / "n1").rename(root / "val" / ".n1")
    (tmp_path / "map.txt").write_text("n1\n.n1\nn2\nn10\n")
    assert describe(make(data={"root": str(root), "class_map": str(tmp_path / "map.txt")})).eval_images == 6


def _deepen(root: Path, scale: int) -> Path:
    """A copy of a folder in gray of 16 bits, `scale` for each of 8; the folder itself becomes gray."""
    deep = root.parent / f"deep{scale}"
    shutil.copytree(root, deep)
    for path in deep.glob("*/*/*.png"):
        gray = np.asarray(Image.open(path).convert("L"))
        Image.fromarray(gray).save(root / path.relative_to(deep))
        Image.fromarray(gray.astype(np.uint16) * scale).save(path)
    return deep


@pytest.mark.parametrize(("scale", "white"), [(257, 65535), (16, 4080)])
def test_gray_images_of_16_bits_are_scaled_to_their_white(make: Make, root: Path, scale: int, white: int) -> None:
    deep = _deepen(root, scale)
    configs = make(data={"root": str(root)}), make(data={"root": str(deep), "white": white})
    assert [problems(config) for config in configs] == [[], []]
    assert [warnings(config) for config in configs] == [[], []]
    shallow, scaled = (eval_set(config, Progress()) for config in configs)
    assert np.array_equal(shallow.images, scaled.images)
    # Same names; sizes made equal: what was clipped before has another identity than what is scaled.
    plain, other = (open_source(config.data, "val") for config in configs)
    assert other.fingerprint != plain.fingerprint


def test_gray_images_of_16_bits_without_a_white_are_refused(make: Make, root: Path) -> None:
    """One value in 16 bits is white in one scanner's images, and nearly black in another's."""
    deep = _deepen(root, 257)
    (wrong,) = problems(make(data={"root": str(deep)}))
    assert is_about(wrong, "data.white", "null")
    with refuses(DataError, "data.white"):  # a white that the images exceed
        eval_set(make(data={"root": str(deep), "white": 200}), Progress())
    # A store of before there was a choice keeps its signatures and its images.
    before, now = (make(data={"root": str(deep)} | more) for more in ({}, {"white": 65535}))
    assert signature(before) == signature(now) != signature(make(data={"root": str(deep), "white": 65534}))
    assert np.array_equal(eval_set(before, Progress()).images, eval_set(now, Progress()).images)


def test_a_stream_of_deep_images_needs_their_white() -> None:
    from vitq.data.source import StreamedSource

    stream = StreamedSource([(Image.fromarray(np.full((2, 2), 4095, np.uint16)), 3)], "0", 1)
    with refuses(DataError, value="number 0"):
        list(stream.pick(np.array([0])))
    stream.white = 4095
    ((_, image, label),) = stream.pick(np.array([0]), "L")
    assert (np.asarray(image).tolist(), label) == ([[255, 255], [255, 255]], 3)


def test_colours_of_16_bits_are_named(make: Make, root: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    lines = b"".join(b"\0" + struct.pack(">24H", *[257 * 7] * 24) for _ in range(8))
    png = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    (root / "val" / "n1" / "img8.png").write_bytes(png)
    config = make(data={"root": str(root)})
    assert problems(config) == []
    (line,) = warnings(config)
    assert "1 images have 16 bits for each colour" in line
    image = open_source(config.data, "val").image(0)
    assert np.unique(np.asarray(image)).tolist() == [7]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_known_white_are_refused(mode: str) -> None:
    from vitq.data.pixels import to_mode

    with refuses(ValueError, value=mode):
        to_mode(Image.new(mode, (4, 4), 70000), "RGB")


@pytest.mark.parametrize("as_tar", [False, True])
def test_empty_images_are_named_by_the_plan(make: Make, root: Path, tmp_path: Path, as_tar: bool) -> None:
    (root / "val" / "n2" / "img8.png").write_bytes(b"")
    place = root
    if as_tar:
        place = tmp_path / "images.tar"
        with tarfile.open(place, "w") as archive:
            archive.add(root, arcname=".")
    with refuses(DataError, value=["n2/img8.png"]):
        describe(make(data={"root": str(place)}))


def test_pointers_of_git_lfs_are_named_by_the_plan(make: Make, root: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"
    (root / "train" / "n1" / "img9.png").write_text(pointer)
    with refuses(DataError, value="n1/img9.png") as raised:
        describe(make(data={"root": str(root)}))
    assert raised.value.problems[0].action == "git lfs pull"


@pytest.mark.parametrize("as_tar", [False, True])
def test_transparent_images_are_counted(make: Make, root: Path, tmp_path: Path, as_tar: bool) -> None:
    path = root / "val" / "n1" / "img8.png"
    Image.open(path).convert("RGBA").save(path)
    place = root
    if as_tar:
        place = tmp_path / "images.tar"
        with tarfile.open(place, "w") as archive:
            archive.add(root, arcname=".")
    (line,) = warnings(make(data={"root": str(place)}))
    assert "1 images are transparent" in line


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(40), b"\xff\xd8\xff" + bytes(40)])
def test_an_image_that_no_decoder_takes_is_named(make: Make, root: Path, content: bytes) -> None:
    path = root / "val" / "n1" / "img8.png"
    path.write_bytes(content)
    with refuses(DataError, value=repr(str(path))):
        open_source(make(data={"root": str(root)}).data, "val").image(0)


def test_an_enormous_image_is_named(make: Make, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow takes one of more pixels than this for an attack, by an error of no usual class."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with refuses(DataError, value=repr(str(root / "val" / "n1" / "img8.png"))):
        open_source(make(data={"root": str(root)}).data, "val").image(0)


@pytest.mark.parametrize("key", ["model.mean", "data.mean", "model.std", "data.std"])
def test_a_mean_of_pixels_up_to_255_is_refused(make: Make, root: Path, key: str) -> None:
    section, name = key.split(".")
    data: dict[str, Any] = {"root": str(root)}
    parts: dict[str, Any] = {"data": data, "model": {}}
    parts[section][name] = [123.675, 116.28, 103.53]
    (wrong,) = problems(make(**parts))
    assert is_about(wrong, key, [123.675, 116.28, 103.53])
    assert wrong.action == f"{key}=[0.485,0.456,0.406]"
    parts[section][name] = [1.0, 1.0, 1.0]
    assert problems(make(**parts)) == []
