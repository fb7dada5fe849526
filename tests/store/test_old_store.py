"""A store that version 0.1.0 wrote is read, its runs are skipped and reported as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from vitq.cli import main
from vitq.config import RunConfig
from vitq.planning import compose, planner
from vitq.planning.plan import Plan
from vitq.store import Store

STORE = Path(__file__).parent / "stores" / "v0_1_0"
# Signature → top-1 of its result.json, percent.
TOP1 = {"a4f3e23e698e6321": 98.1544, "2f1fc969b26e8407": 97.8188, "bb1a03d20ea836fb": 97.8188}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(STORE, tmp_path / "runs")
    return Store("runs")


def test_its_runs_are_listed_as_done(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "demo", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"done": 3}
    assert [(row["signature"], row["run"], row["attempt"]) for row in document["runs"]] == [
        ("a4f3e23e698e6321", "vit_digits fp32", 1),
        ("2f1fc969b26e8407", "vit_digits minmax w4a4", 1),
        ("bb1a03d20ea836fb", "vit_digits repq_vit w4a4", 1),
    ]


def test_a_run_of_it_has_everything_that_it_left(store: Store) -> None:
    run = store.find("bb1a")
    assert (run.state, run.reason, run.label) == ("done", None, "vit_digits repq_vit W4A4 c96 s0")
    assert run.config.calib.size == 96
    assert run.metrics is not None
    assert run.metrics.top1 == pytest.approx(TOP1[run.signature], abs=1e-4)
    assert 100 * run.predictions["correct"].mean() == pytest.approx(TOP1[run.signature], abs=1e-4)
    assert set(run.sites["bits"]) == {4, 32}
    assert run.log.splitlines()[0].endswith(", pid 4106")


def test_it_is_reported(store: Store, tmp_path: Path) -> None:
    assert main(["report", "demo", "--out", str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "report.csv")
    assert dict(zip(table["signature"], table["top1"].round(4), strict=True)) == TOP1
    assert set(table["state"]) == {"done"}
    assert all(signature in (tmp_path / "out" / "report.html").read_text() for signature in TOP1)


def _planned(store: Store) -> Plan:
    file, roots = compose.root_config()
    words = ["model=vit_digits", "method=fp32,minmax,repq_vit", "bits=w4a4", "calib.size=96", f"runs_dir={store.root}"]
    return planner.make(compose.load(file, roots, words, multirun=True), name="demo")


def test_the_same_cells_have_the_same_signatures_and_are_finished(store: Store) -> None:
    plan = _planned(store)
    assert {run.signature: run.done for run in plan.runs} == dict.fromkeys(TOP1, True)
    assert {run.signature: run.label for run in plan.runs} == store.read_sweep("demo").labels


def _keys(plain: Any) -> Any:
    return {key: _keys(value) for key, value in plain.items()} if isinstance(plain, dict) else None


def test_records_of_today_have_the_keys_of_then(store: Store) -> None:
    for run in _planned(store).runs:
        run_dir = store.run(run.signature)
        stored = run_dir.read_config()
        keys = _keys(run.config.to_dict())
        keys["method"].pop("tune", None)  # volatile: what `vitq tune` may choose in a recipe
        assert list(keys) == list(_keys(stored)), "in their order"
        assert keys == _keys(stored)
        config, problems = RunConfig.parse(stored)
        assert config is not None, problems
        assert config.to_dict() == stored
        result = run_dir.read_result()
        assert result is not None
        assert result.to_json() == run_dir.result_path.read_text(), "byte for byte"
