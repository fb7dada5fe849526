"""Pages of results: made from the store that lies with them, and what is taken into that store."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.errors import refuses
from tests.report.conftest import config, correct, finish
from tests.report.test_report_detectors import found
from vitq.errors import StoreError
from vitq.store import Store, SweepRecord
from vitq.store.reproductions import ReproductionRecord, Target, write_reproduction
from vitq.store.studies import StudyRecord, TrialRecord, read_study, write_study


@pytest.fixture
def script(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", repo / "docs" / "results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_making_the_pages_again_changes_nothing(script: ModuleType, tmp_path: Path) -> None:
    """`python docs/results.py` writes them."""
    written = script.write_pages(Store(script.STORE), tmp_path)
    assert len(written) >= 2
    for page in written:
        assert page.read_text() == (script.PAGES / page.name).read_text(), page.name


def test_every_page_of_results_is_made_and_listed(script: ModuleType, repo: Path) -> None:
    made = {f"{sweep}.md" for sweep in Store(script.STORE).sweeps()} | {"models.md"}  # by docs/models.py
    assert {page.name for page in script.PAGES.glob("*.md")} == made | {"index.md"}
    listed = (script.PAGES / "index.md").read_text()
    contents = (repo / "mkdocs.yml").read_text()
    assert [name for name in made if f"({name})" not in listed or f"results/{name}" not in contents] == []


def test_the_store_has_neither_folders_of_a_machine_nor_weights(script: ModuleType) -> None:
    files = [path for path in script.STORE.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".yaml", ".npz"}
    assert max(path.stat().st_size for path in files) < 10_000, "each is small, however many runs there are"
    for path in files:
        if path.suffix != ".npz":
            text = path.read_text()
            assert script.without_folders(text) == text, path
    for run in (Store(script.STORE).run(path.parent.name) for path in script.STORE.glob("*/result.json")):
        assert "name" not in run.require_result().provenance.host


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/data/lab/imagenet", "imagenet"),
        ("vitq run data.root=/a/b model.checkpoint=/w/a.pth", "vitq run data.root=b model.checkpoint=a.pth"),
        ("/data", "data"),
        ("gained / lost, 3/4, w8/a8", "gained / lost, 3/4, w8/a8"),
        ("https://arxiv.org/abs/1", "https://arxiv.org/abs/1"),
        ("runs/abc/x.npz ./a/b ../c", "runs/abc/x.npz ./a/b ../c"),
    ],
)  # fmt: skip
def test_folders_of_absolute_paths_go(script: ModuleType, text: str, left: str) -> None:
    assert script.without_folders({"a": [text, 3, None]}) == {"a": [left, 3, None]}


def test_what_is_taken_gives_the_same_page(script: ModuleType, tmp_path: Path) -> None:
    """Runs, a reproduction and a study, from a store with paths in it."""
    source, target = Store(tmp_path / "runs"), Store(tmp_path / "kept")
    where: dict[str, Any] = {
        "data__root": str(tmp_path / "images"),
        "model__checkpoint": str(tmp_path / "w.safetensors"),
    }
    fp = finish(source, config("fp32", **where), correct(0))
    runs = [finish(source, config("repq_vit", 4, seed, **where), correct(9 + seed)) for seed in (0, 1)]
    source.write_sweep(
        SweepRecord(name="paper", signatures=[fp, *runs], command=f"vitq reproduce data.root={tmp_path}/images")
    )
    figure = Target(model="vit", bits="W4A4", table=None, top1=95.0, full_precision=98.0, runs=runs, reference=fp)
    compared = ReproductionRecord(
        name="paper", paper="p", method="m", targets=[figure], deviations=["d"], given=[f"data.root={tmp_path}/images"],
        unlike=[f"vit: weights from {tmp_path}/w.safetensors"],
    )  # fmt: skip
    write_reproduction(source, compared)
    trials = [
        TrialRecord(number=n, state="done", options={"steps.a.lr": lr}, signature=run, kl=kl, seconds=2.0)
        for n, (run, lr, kl) in enumerate(zip(runs, (0.1, 0.25), (0.5, 0.375), strict=True))
    ]
    study = StudyRecord(
        name="study", method="repq_vit", held_out=50, ranges={"steps.a.lr": {"low": 0.0, "high": 1.0}},
        own={"steps.a.lr": 0.1}, trials=trials, importances={"steps.a.lr": 1.0}, recipe=str(tmp_path / "r.yaml"),
    )  # fmt: skip
    source.write_sweep(SweepRecord(name="study", signatures=runs))
    write_study(source, study)
    for sweep in ("paper", "study"):
        script.add(source, sweep, target)
    pages = {path.name: path.read_text() for path in script.write_pages(target, tmp_path / "pages")}

    text = "".join(path.read_text() for path in target.root.rglob("*") if path.suffix in (".json", ".yaml"))
    assert str(tmp_path) not in text + "".join(pages.values())
    assert target.run(fp).read_config()["data"]["root"] == "images"
    assert [target.run(run).require_result().metrics for run in runs] == [
        source.run(run).require_result().metrics for run in runs
    ]
    assert [*target.run(fp).read_predictions()] == ["correct", "label"]
    assert not target.run(fp).status_path.exists()
    taken = read_study(target, "study")
    assert taken is not None
    assert taken.trials == study.trials

    paper = pages["paper.md"]
    assert "### Ours beside published" in paper
    assert paper.index("full precision 98.00 %") < paper.index("| vit | W4A4 |") < paper.index("- d\n")
    assert "- given: data.root=images" in paper
    assert all(f"`{run}`" in paper for run in (fp, *runs))
    rows = re.findall(r"^\| (\d.*?) +\| +([\d.]+) \| +2 \| +([\d.]+) \|$", pages["study.md"], re.MULTILINE)
    assert rows == [("1", "0.375", "0.25"), ("0 (own)", "0.5", "0.1")]
    assert "steps.a.lr 100 %" in pages["study.md"]


def test_detectors_are_taken_with_their_images_precision(script: ModuleType, tmp_path: Path) -> None:
    source, target = Store(tmp_path / "runs"), Store(tmp_path / "kept")
    detector: dict[str, Any] = {"task": "segmentation", "model__name": "mask_rcnn"}
    runs = [found(source, config(m, 4, **detector), ap) for m, ap in (("minmax", 40.0), ("repq_vit", 55.0))]
    arrays = source.run(runs[0]).read_predictions()
    source.run(runs[0]).write_predictions(arrays | {"box": np.zeros((9, 4)), "mask": np.zeros(99, np.uint8)})
    source.write_sweep(SweepRecord(name="scenes", signatures=runs, baseline="minmax"))
    script.add(source, "scenes", target)
    kept = target.run(runs[0]).read_predictions()
    assert {name: value.tolist() for name, value in kept.items()} == {name: arrays[name].tolist() for name in arrays}
    (page,) = script.write_pages(target, tmp_path / "pages")
    text = page.read_text()
    (head, _, *rows) = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in text.partition("### Signatures")[2].splitlines()
        if line.startswith("|")
    ]
    listed = [dict(zip(head, row, strict=True)) for row in rows]
    assert [[row[name] for name in ("method", "AP box, %", "AP mask, %", "signature")] for row in listed] == [
        ["minmax", "41.00", "40.00", runs[0]],
        ["repq_vit", "56.00", "55.00", runs[1]],
    ]
    assert listed[0]["fidelity box, %"] == "0.00"
    assert "top-1" not in text
    assert re.search(r"\| minmax \| repq_vit \| worse +\| +32 \| +−15.00 ", text)
    assert "### Paired comparison" not in text


def test_an_unfinished_sweep_is_not_taken(script: ModuleType, tmp_path: Path) -> None:
    source = Store(tmp_path / "runs")
    done = finish(source, config("fp32"), correct(0))
    source.write_sweep(SweepRecord(name="half", signatures=[done, "0" * 16]))
    with refuses(StoreError, "sweep", "half"):
        script.add(source, "half", Store(tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()


def test_the_readme_s_table_is_of_the_page(repo: Path) -> None:
    """Its AP of masks: of each method, in the columns of the same bits, as `docs/results/detection.md` has them."""
    section = (repo / "docs/results/detection.md").read_text().partition("AP mask\n")[2]
    lines = [line for line in section.partition("\n### ")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    page = {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}
    readme = (repo / "README.md").read_text()
    table = readme[readme.index("| AP mask") :].partition("\n\n")[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert [row[0].split("`")[1] for row in rows] == ["minmax", "repq_vit", "ias_vit"]
    for name, *figures in rows:
        row = page[name.split("`")[1]]
        assert figures == [row[bits].strip("*").split("*")[0].split(" ")[0] for bits in head[1:]], name
    assert f"full precision {page['full precision']['W8A8'].split(' ')[0]}" in head[0]
