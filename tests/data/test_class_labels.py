"""Labels as people have them: ImageNet's flat validation folder, label files, class maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.errors import is_about, refuses
from tests.image_folders import Make, write_image
from vitq.data import describe, eval_set, problems
from vitq.data.opening import open_source
from vitq.errors import DataError
from vitq.progress import Progress


@pytest.fixture
def flat(root: Path) -> Path:
    """The folder's val split as ImageNet comes: images in no class folder, of classes n2 n10 n1 n10 n2 n1."""
    for number, name in enumerate(("n2", "n10", "n1", "n10", "n2", "n1"), 1):
        source = sorted((root / "val" / name).iterdir())[0]
        source.rename(root / "val" / f"ILSVRC2012_val_{number:08d}.png")
    for name in ("n1", "n2", "n10"):
        (root / "val" / name).rmdir()
    return root


EXPECTED = [1, 2, 0, 2, 1, 0]


def _devkit(folder: Path) -> None:
    """ILSVRC ids in another order than the names, and inner nodes of WordNet, as in the development kit."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(7, "n10"), (3, "n2"), (5, "n1"), (1001, "n0")]
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O")]
    savemat(
        folder / "meta.mat", {"synsets": np.array([(number, name) for number, name in rows], dtype=kind).reshape(-1, 1)}
    )
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("3\n7\n5\n7\n3\n5\n")


def _kaggle(folder: Path) -> None:
    names = ("n2", "n10", "n1", "n10", "n2", "n1")
    rows = [f"ILSVRC2012_val_{number:08d},{name} 1 2 3 4 {name} 5 6 7 8 " for number, name in enumerate(names, 1)]
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")


@pytest.mark.parametrize("below", ["", "ILSVRC2012_devkit_t12/data"])
def test_imagenets_flat_validation_folder_with_the_development_kit(make: Make, flat: Path, below: str) -> None:
    _devkit(flat / below)
    config = make(data={"root": str(flat)})
    assert problems(config) == []
    assert eval_set(config, Progress()).labels.tolist() == EXPECTED


def test_imagenets_flat_validation_folder_with_kaggles_labels_far_above(make: Make, flat: Path) -> None:
    place = flat.parent / "ILSVRC" / "Data" / "CLS-LOC"
    place.parent.mkdir(parents=True)
    flat.rename(place)
    _kaggle(flat.parent)
    config = make(data={"root": str(place)})
    assert problems(config) == []
    assert eval_set(config, Progress()).labels.tolist() == EXPECTED


def test_a_label_file_of_ones_own(make: Make, flat: Path, tmp_path: Path) -> None:
    lines = [f"ILSVRC2012_val_{n:08d}.png {name}" for n, name in enumerate(("n2", "n10", "n1", "n10", "n2", "n1"), 1)]
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    config = make(data={"root": str(flat), "labels": str(tmp_path / "labels.txt")})
    assert eval_set(config, Progress()).labels.tolist() == EXPECTED
    (tmp_path / "labels.txt").write_text("\n".join(lines[1:]))
    with refuses(DataError, key="data.labels", value=["ILSVRC2012_val_00000001.png"]):
        describe(config)


def test_a_label_file_that_nothing_reads(make: Make, root: Path, tmp_path: Path) -> None:
    """Images in class folders have their labels."""
    (tmp_path / "labels.csv").write_text("a 0\n")
    (problem,) = problems(make(data={"root": str(root), "labels": str(tmp_path / "labels.csv")}))
    assert is_about(problem, "data.labels", str(tmp_path / "labels.csv"))


def test_a_label_file_that_contradicts_itself(make: Make, flat: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (flat / "val").iterdir())
    lines = [f"{name},n1" for name in names]
    (tmp_path / "labels.csv").write_text("\n".join([*lines, lines[0]]))  # twice the same is no contradiction
    data = {"root": str(flat), "labels": str(tmp_path / "labels.csv")}
    assert set(open_source(make(data=data).data, "val").labels.tolist()) == {0}
    (tmp_path / "labels.csv").write_text("\n".join([*lines, f"{names[0]},n2"]))
    with refuses(DataError, key="data.labels", value=names[0].removesuffix(".png")):
        open_source(make(data=data).data, "val")


def test_a_flat_folder_without_labels_and_images_beside_class_folders(make: Make, flat: Path) -> None:
    names = [f"ILSVRC2012_val_{number:08d}.png" for number in range(1, 7)]
    with refuses(DataError, key="data.labels", value=names):
        describe(make(data={"root": str(flat)}))
    write_image(flat / "train" / "stray.png", 3)
    with pytest.raises(DataError) as raised:
        describe(make(data={"root": str(flat)}))
    assert [(problem.key, problem.value) for problem in raised.value.problems] == [
        ("data.labels", ["stray.png"]),
        ("data.labels", names),
    ]


def test_a_label_file_that_is_too_short_or_has_no_meta(make: Make, flat: Path) -> None:
    _devkit(flat)
    (flat / "meta.mat").unlink()
    with refuses(DataError, key="data.labels", value=str(flat / "meta.mat")):
        describe(make(data={"root": str(flat)}))
    _devkit(flat)
    (flat / "ILSVRC2012_validation_ground_truth.txt").write_text("3\n7\n")
    with refuses(DataError, key="data.labels", value=2, valid=[6]):
        describe(make(data={"root": str(flat)}))


@pytest.mark.parametrize(
    "text", ["\ufeffn1\nn2\nn10\n", "n1\r\nn2\r\nn10\r\n\r\n", "n1 tench, Tinca tinca\nn2 goldfish\nn10 a shark\n"]
)
def test_class_maps_as_editors_and_kaggle_write_them(make: Make, root: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "map.txt"
    path.write_text("n1\nn2\nn10\n")
    plain = describe(make(data={"root": str(root), "class_map": str(path)}))
    path.write_bytes(text.encode())
    assert describe(make(data={"root": str(root), "class_map": str(path)})) == plain


def test_a_class_of_one_split_alone_is_named(make: Make, root: Path) -> None:
    write_image(root / "val" / "n7" / "a.png", 0)
    (problem,) = problems(make(data={"root": str(root), "num_classes": 4}))
    assert is_about(problem, "data.class_map", ["n7"])
