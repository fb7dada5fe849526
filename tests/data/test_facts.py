"""What a plan learns about the data, and how it is told what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from timm.data import create_dataset

from tests.errors import is_about, refuses
from tests.image_folders import CLASSES, Make, write_image
from vitq.data import class_labels, describe, digits, listing, problems
from vitq.data.opening import open_source
from vitq.errors import DataError


def test_digits_are_whole_disjoint_and_stratified(make: Make) -> None:
    train, calib, test = (set(digits.indices(split).tolist()) for split in ("train", "calib", "test"))
    assert train | test == set(range(1797))
    assert not train & test
    assert calib < train
    for split in ("train", "calib", "test"):
        counts = np.bincount(digits.Digits(split).labels, minlength=10)
        assert counts.max() - counts.min() <= 6
    facts = describe(make())
    assert (facts.calib_images, facts.eval_images, facts.num_classes) == (len(calib), len(test), 10)
    assert problems(make()) == []


@pytest.mark.parametrize(("key", "value"), [("root", "/x"), ("class_map", "x.txt"), ("labels", "x"), ("white", 255)])
def test_what_the_digits_do_not_read_is_refused(make: Make, key: str, value: object) -> None:
    """`data=digits data.root=/my/images` would be a result of the digits."""
    (problem,) = problems(make(data={**make().to_dict()["data"], key: value}))
    assert is_about(problem, f"data.{key}", value)


def test_an_empty_or_remote_root_is_none(make: Make) -> None:
    for root, said in (("", "not set"), ("s3://bucket/x", "URL")):
        assert all(is_about(p, "data.root") and said in p for p in problems(make(data={"root": root})))


def test_unknown_split_of_the_digits_lists_the_splits(make: Make) -> None:
    with refuses(DataError, value="validation", valid=["calib", "test", "train"]):
        digits.indices("validation")


def test_calibrating_on_scored_images_is_a_problem(make: Make, root: Path) -> None:
    digits_config = make(data={**make().to_dict()["data"], "calib_split": "train", "eval_split": "calib"})
    assert any(is_about(problem, "data.calib_split", "train") for problem in problems(digits_config))
    same = make(data={"root": str(root), "calib_split": "val"})
    assert any(is_about(problem, "data.calib_split", "val") for problem in problems(same))
    synonyms = make(data={"root": str(root), "calib_split": "val", "eval_split": "validation"})
    found = problems(synonyms)
    assert any(is_about(problem, "data.calib_split", "val") for problem in found), "one folder under two names"


def test_folder_counts_and_fingerprint_follow_the_content(make: Make, root: Path, tmp_path: Path) -> None:
    config = make(data={"root": str(root)})
    before = describe(config)
    assert (before.calib_images, before.eval_images, before.num_classes) == (11, 6, 3)
    moved = tmp_path / "else where's"
    root.rename(moved)
    assert describe(make(data={"root": str(moved)})) == before
    write_image(moved / "val" / "n1" / "more.png", 1)
    after = describe(make(data={"root": str(moved)}))
    assert after.eval_images == 7
    calib, evaluation = before.fingerprint.split("-")
    assert after.fingerprint.split("-")[0] == calib
    assert after.fingerprint.split("-")[1] != evaluation


def test_labels_are_part_of_the_fingerprint(make: Make, root: Path, class_map: Path) -> None:
    ranked = describe(make(data={"root": str(root)}))
    mapped = describe(make(data={"root": str(root), "class_map": str(class_map), "num_classes": 5}))
    assert ranked.fingerprint != mapped.fingerprint
    assert mapped.num_classes == 5


@pytest.mark.parametrize("mapped", [True, False])
def test_listing_agrees_with_timm(root: Path, class_map: Path, mapped: bool) -> None:
    place = listing.split_folder(str(root), "training")
    mapping = class_labels.class_map(str(class_map)) if mapped else None
    found = listing.list_folder(place)
    labels = class_labels.labels_of(found, mapping)
    ours = {name: labels[label] for name, label in zip(found.names, found.classes, strict=True)}
    dataset = create_dataset("", root=str(root), split="train", class_map=mapping)  # type: ignore[arg-type]
    theirs = {dataset.filename(i): label for i, (_, label) in enumerate(dataset.reader.samples)}
    assert ours == theirs
    assert sorted(labels) == sorted(CLASSES)


def test_every_fault_of_the_data_is_named_at_once(make: Make, root: Path) -> None:
    with pytest.raises(DataError) as raised:
        describe(make(data={"root": str(root), "calib_split": "calib", "eval_split": "holdout"}))
    assert [problem.value for problem in raised.value.problems] == ["calib", "holdout"]
    assert {problem.valid for problem in raised.value.problems} == {("train", "val")}
    with refuses(DataError, key="data.root", value=None):
        describe(make(data={}))
    with refuses(DataError, key="data.root", value="/nowhere"):
        describe(make(data={"root": "/nowhere"}))
    with refuses(DataError, key="data.dataset", value="imagnet", valid=["digits"]):
        describe(make(data={"root": str(root), "dataset": "imagnet"}))


def test_an_empty_split_is_an_error(make: Make, root: Path) -> None:
    (root / "empty" / "n1").mkdir(parents=True)
    with refuses(DataError, value=str(root / "empty"), valid=[".png"]):
        describe(make(data={"root": str(root), "calib_split": "empty"}))


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"n1\n\nn2\n", 2),  # the empty line
        (b"n1\nn2\nn1\n", "n1"),  # named twice
        (b"", ...),
        (b"\xff\xfe\xff", ...),
        (b"n1\nn2\n", ["n10"]),  # not in the map
    ],
)
def test_bad_class_maps(make: Make, root: Path, tmp_path: Path, content: bytes, value: object) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with refuses(DataError, key="data.class_map", value=str(path) if value is ... else value):
        open_source(make(data={"root": str(root), "class_map": str(path)}).data, "val")


def test_missing_and_foreign_class_map(make: Make, root: Path) -> None:
    with refuses(DataError, key="data.class_map", value=str(root / "no.txt")):
        describe(make(data={"root": str(root), "class_map": str(root / "no.txt")}))
    with refuses(DataError, key="data.class_map", value=".pkl", valid=[".txt"]):
        describe(make(data={"root": str(root), "class_map": str(root / "map.pkl")}))


def test_problems_lists_all_of_them(make: Make, root: Path) -> None:
    write_image(root / "val" / "n7" / "a.png", 0)
    config = make(
        data={"root": str(root), "num_classes": 1000, "std": [0.5, 0.0, 0.5]},
        calib={"size": 12},
        model={"kwargs": {"num_classes": 7}, "interpolation": "cubic"},
    )
    found = {problem.key: problem for problem in problems(config)}
    for key, value, valid in (
        ("calib.size", 12, []),
        ("data.num_classes", 1000, [4]),
        ("data.class_map", ["n7"], []),
        ("data.std", [0.5, 0.0, 0.5], []),
        ("model.kwargs.num_classes", 7, [1000]),
        ("model.interpolation", "cubic", ["bicubic"]),
    ):
        assert is_about(found[key], key, value, valid)


def test_full_precision_needs_no_calibration_images(make: Make, root: Path) -> None:
    config = make(data={"root": str(root)}, calib={"size": 500}, method={"kinds": {}})
    assert problems(config) == []


def test_no_torch_for_digits_folders_and_identities(root: Path) -> None:
    code = f"""
import sys
from vitq.config import RunConfig
from vitq.data import describe, problems
from vitq.models.load import identify
for data in ({{"name": "d", "dataset": "digits", "calib_split": "calib", "eval_split": "test", "num_classes": 10}},
             {{"name": "f", "root": {str(root)!r}, "num_classes": 3}}):
    config, bad = RunConfig.parse(dict(model=dict(name="vit_digits", train={{}}), data=data, method=dict(name="m")))
    assert not bad and not problems(config), (bad, problems(config))
    describe(config), identify(config.model)
print([m for m in ("torch", "timm") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
