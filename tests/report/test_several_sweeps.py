"""One report over several sweeps: runs are compared across them, tasks never share a table, runs are linked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from tests.errors import command_refuses
from tests.report.conftest import N, config, correct, finish
from tests.report.test_report_page import Page
from vitq import report
from vitq.cli import main
from vitq.report.contents import Report
from vitq.store import Store, SweepRecord, mirror_record


def sweep(store: Store, name: str, signatures: list[str], **facts: Any) -> None:
    store.write_sweep(SweepRecord(name=name, signatures=signatures, **facts))


@pytest.fixture
def two(tmp_path: Path) -> Store:
    """Full precision and minmax in one sweep, the same full precision and repq_vit in the other."""
    store = Store(tmp_path / "runs")
    full = finish(store, config("fp32"), correct(0))
    for name, method, wrong in (("old", "minmax", 60), ("new", "repq_vit", 12)):
        own = [finish(store, config(method, 4, seed), correct(wrong + seed, seed)) for seed in (0, 1)]
        sweep(store, name, [full, *own], baseline="minmax", description=f"with {method}", command=f"vitq sweep {name}")
    return store


def detector(store: Store, method: str, ap: float) -> str:
    """A finished run of a detector; each image has this average precision, give or take."""
    run = config(method, 4, task="detection", model__name="cascade", data__name="coco")
    metrics = {f"{name}_box": ap for name in ("ap", "fp_ap", "drop", "fidelity")}
    sizes = {f"ap_box{end}": ap for end in ("50", "75", "_small", "_medium", "_large")}
    signature = finish(store, run, correct(0), metrics={**metrics, **sizes, "n_eval": N})
    scores = np.clip(ap + np.random.default_rng(int(ap)).normal(0, 5, N), 0, 100)
    store.run(signature).write_predictions({"id": np.arange(N), "image_ap_box": scores})
    return signature


@pytest.fixture
def tasks(two: Store) -> Store:
    sweep(two, "boxes", [detector(two, "minmax", 30.0), detector(two, "repq_vit", 41.0)], baseline="minmax")
    return two


def page(store: Store, *sweeps: str) -> tuple[str, Page]:
    text = report.build(store, sweeps, ["html"])["html"].read_text(encoding="utf-8")
    return text, Page(text)


def test_methods_of_two_sweeps_meet(two: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "old", "new", "--format", "html", "--format", "csv", "--runs-dir", str(two.root)]) == 0
    assert capsys.readouterr().out.split() == [
        str(two.sweep_folder("old+new") / "report.html"),
        str(two.sweep_folder("old+new") / "report.csv"),
    ]
    both = Report.of(two, ["old", "new"])
    assert list(both.df["signature"]) == list(
        dict.fromkeys([*two.read_sweep("old").signatures, *two.read_sweep("new").signatures])
    )
    assert both.pairs[["a", "b", "seeds"]].values.tolist() == [["minmax", "repq_vit", 2]]
    assert (both.baseline, both.description) == ("minmax", "old: with minmax; new: with repq_vit")
    text, parsed = page(two, "old", "new")
    assert [row[0] for row in parsed.tables[0][2:4]] == ["minmax", "repq_vit"]
    assert {"vitq sweep old", "vitq sweep new"} <= set(re.findall(r"<dd>(.*?)</dd>", text))
    assert main(["report", "old", "new", "--compare", "repq_vit", "minmax", "--runs-dir", str(two.root)]) == 0
    assert "repq_vit is better than minmax" in capsys.readouterr().out
    command_refuses(["report", "old", "newer", "--runs-dir", str(two.root)], key="sweep", value="newer", valid=["new"])


def test_two_baselines_are_none(two: Store) -> None:
    sweep(two, "third", two.read_sweep("old").signatures, baseline="repq_vit")
    assert Report.of(two, ["old", "third"]).baseline is None
    assert Report.of(two, ["old", "third"]).comparisons is None
    assert Report.of(two, "third").baseline == "repq_vit"


def test_iterations_of_two_budgets_are_two_methods(two: Store) -> None:
    for seconds, iterations in ((10.0, 50), (60.0, 300)):
        run = config("ias_vit", 4, method__iterations=iterations)
        sweep(two, f"s{iterations}", [finish(two, run, correct(5))], budget_seconds=seconds)
    assert set(report.table(two, "s50")["method"]) == {"ias_vit"}
    assert set(report.table(two, ["s50", "s300"])["method"]) == {
        "ias_vit (iterations=50)",
        "ias_vit (iterations=300)",
    }


def test_no_table_holds_two_tasks(tasks: Store) -> None:
    _, parsed = page(tasks, "old", "new", "boxes")
    tables = [table for table in parsed.tables if table]
    models = [{"vit_digits", "cascade"} & {cell for row in table for cell in row} for table in tables]
    assert all(len(found) < 2 for found in models)
    runs = [table for table in tables if table[0][-1] == "see"]
    assert [len(table) - 1 for table in runs] == [5, 2]
    assert ["AP box, %" in table[0] for table in runs] == [False, True]
    assert ["top‑1, %" in table[0] for table in runs] == [True, False]
    both = Report.of(tasks, ["old", "new", "boxes"])
    assert [set(part.df["task"]) for part in both.parts] == [{"classification"}, {"detection"}]
    # Each task is corrected for its own comparisons.
    assert list(both.pairs["family"]) == [1, 1]
    assert list(both.pairs["model"]) == ["vit_digits", "cascade"]
    files = report.build(tasks, ["old", "new", "boxes"], ["md", "latex"])
    assert re.findall(r"^## (\w+)$", files["md"].read_text(), re.M) == ["classification", "detection"]
    labels = re.findall(r"\\label\{(.*)\}", files["latex"].read_text())
    assert labels == ["tab:vitq", "tab:vitq", "tab:vitq-fidelity"]


def test_labels_do_not_say_the_task_of_each_model(tasks: Store) -> None:
    df = report.table(tasks, ["old", "boxes"])
    assert set(df["method"]) == {"fp32", "minmax", "repq_vit"}


def test_the_same_images_scored_for_two_tasks_are_two_data_sets(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    names: dict[str, Any] = {"model__name": "mask", "data__name": "coco"}
    runs = [config("minmax", 4, task=task, **names) for task in ("detection", "segmentation")]
    sweep(store, "both", [finish(store, run, correct(3)) for run in runs])
    assert list(report.table(store, "both")["data"]) == ["coco (task=detection)", "coco (task=segmentation)"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_row_leads_to_its_run(two: Store, tmp_path: Path, elsewhere: bool) -> None:
    first, second, *_ = signatures = two.read_sweep("old").signatures
    for signature, url in ((first, "https://wandb.ai/lab/vitq/runs/x"), (second, "javascript:alert(1)")):
        record = mirror_record.TrackerRecord(id="x", sync_dir="gone", url=url)
        mirror_record.write(two.run(signature), record)
    out = tmp_path / "public pages" if elsewhere else None
    path = report.build(two, "old", ["html"], out)["html"]
    text = path.read_text(encoding="utf-8")
    folders = [unquote(address) for address in re.findall(r'<a href="([^"]+)">files</a>', text)]
    assert [(path.parent / folder).resolve() for folder in folders] == [two.run(s).path.resolve() for s in signatures]
    assert re.findall(r'<a href="([^"]+)">W&amp;B</a>', text) == ["https://wandb.ai/lab/vitq/runs/x"]
    (payload,) = [script for facts, script in Page(text).scripts if facts.get("id") == "payload"]
    assert len(json.loads(payload)["runs"]) == 3


def test_weights_stand_for_how_they_were_trained(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    trained = {"model__train": {"seed": 0, "epochs": 40}, "model__weights": "trained-by-recipe-1"}
    other = {"model__train": {"seed": 1, "epochs": 40}, "model__weights": "trained-by-recipe-1"}
    changes: list[dict[str, Any]] = [trained, {"model__weights": "ab" * 32}, other]
    names = [finish(store, config("minmax", 4, **change), correct(3)) for change in changes]
    sweep(store, "two", names[:2])
    sweep(store, "three", names)
    assert list(report.table(store, "two")["model"]) == [
        "vit_digits (weights=trained-by-recipe-1)",
        "vit_digits (weights=abababab)",
    ]
    # Two recipes of training have no other name.
    assert len(set(report.table(store, "three")["model"])) == 3
