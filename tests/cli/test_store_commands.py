"""Every run of a store can be found, looked at, compared and ended; one broken record hides no other."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.errors import command_refuses
from tests.fake_engine import FakeEngine
from vitq.cli import main
from vitq.store import Store

WORDS = ["tracker=none", "model=vit_digits"]


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main([*words]) == code
    return capsys.readouterr().out


def listed(capsys: pytest.CaptureFixture[str], *filters: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(printed(capsys, "list", "runs", "--json", *filters))
    return found


@pytest.fixture
def runs(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> Store:
    assert main(["run", "-m", *WORDS, "method=minmax,mse", "bits=w8a8,w4a4"]) == 0
    assert main(["run", *WORDS, "method=mse", "bits=w3a3", "calib.size=16"]) == 0
    return Store("runs")


def test_runs_are_found_by_what_their_config_says(runs: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(listed(capsys)) == 5
    assert [row["run"] for row in listed(capsys, "method=mse", "bits=w4a4")] == ["vit_digits mse W4A4 c32 s0"]
    (single,) = listed(capsys, "sweep=none")
    assert (single["run"], single["state"]) == ("vit_digits mse W3A3 c16 s0", "done")
    assert single["top1"] == pytest.approx(98 - 40 / 3)
    assert listed(capsys, "calib.size=16") == [single]
    assert len(listed(capsys, "method=min*,mse", "sweep=multirun")) == 4
    assert listed(capsys, "state=failed") == []
    out = printed(capsys, "list", "runs", "calib.size=16")
    assert f"{single['signature']}  done" in out
    assert "84.67" in out
    assert main(["list", "runs", "mse"]) == 2


def test_a_filter_that_nothing_can_match_is_no_empty_list(runs: Store) -> None:
    """A misspelt key, or a word that is no state, is no filter; a key that records leave out at its default is one."""
    command_refuses(["list", "runs", "methd=mse"], "methd", "methd", ["method"])
    command_refuses(["list", "runs", "calib.sizee=null"], "calib.sizee", valid=["calib.size"])
    command_refuses(["list", "runs", "state=dnoe"], "state", "dnoe", ["done", "unreadable"])


def test_keys_that_a_record_leaves_out_are_filters_too(runs: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(listed(capsys, "task=classification", "bits.scope=all", "data.allow_overlap=false", "state=d*")) == 5
    assert listed(capsys, "bits.scope=backbone") == []
    assert len(listed(capsys, "model.kwargs.depth=4")) == 5
    assert listed(capsys, "model.kwargs.no_such=1") == []


def test_variants_of_an_ablation_are_told_apart(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    axis = "method.steps.weights.enabled=true,false"
    assert main(["run", "-m", *WORDS, "method=mse", "bits=w4a4", axis]) == 0
    assert sorted(row["run"] for row in listed(capsys)) == [
        "vit_digits mse W4A4 c32 s0 weights.enabled=false",
        "vit_digits mse W4A4 c32 s0 weights.enabled=true",
    ]
    assert len(listed(capsys, "label=vit_digits mse W4A4 c32 s0")) == 2


def test_show_has_all_of_a_run(runs: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = listed(capsys, "calib.size=16")
    facts = json.loads(printed(capsys, "show", row["signature"][:8], "--json"))
    assert facts["metrics"]["top1"] == row["top1"]
    assert facts["config"]["calib"]["size"] == 16
    assert set(facts["files"]) >= {"config.yaml", "result.json", "status.json"}
    out = printed(capsys, "show", row["signature"])
    assert "top-1 84.67 %, drop 13.33 points" in out
    assert "    size: 16" in out


def test_show_of_a_run_without_a_result_says_why(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(config: object) -> None:
        raise ValueError("out of luck")

    engine.fail = fail
    assert main(["run", *WORDS]) == 1
    (name,) = Store("runs").signatures()
    assert "out of luck" in printed(capsys, "show", name)


def test_diff_tells_identity_paths_and_figures_apart(runs: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (a,), (b,) = listed(capsys, "method=mse", "bits=w4a4"), listed(capsys, "method=mse", "bits=w3a3")
    found = json.loads(printed(capsys, "diff", a["signature"], b["signature"], "--json"))
    assert found["config"] == {"bits.weight": [4, 3], "bits.activation": [4, 3], "calib.size": [32, 16]}
    assert found["no_part_of_the_identity"] == {}
    assert found["figures"]["top1"] == [a["top1"], b["top1"]]
    assert "calib.size" in printed(capsys, "diff", a["signature"], b["signature"])


def test_one_broken_record_hides_no_other(runs: Store, capsys: pytest.CaptureFixture[str]) -> None:
    broken = runs.signatures()[0]
    (runs.root / "sweeps" / "bad.json").write_text("{half")
    out = printed(capsys, "status", code=1)
    assert "multirun: 4 done" in out
    assert str(runs.root / "sweeps" / "bad.json") in out
    assert "1 run in no sweep" in out
    (runs.root / broken / "config.yaml").write_text("model: [\n")
    out = printed(capsys, "list", "runs", code=1)
    assert len([line for line in out.splitlines() if "  done  " in line]) == 4
    assert str(runs.root / broken / "config.yaml") in out
    assert main(["status", "multirun"]) == 0
    assert main(["report", "multirun", "--format", "csv"]) == 0
    # What no record can say is nothing to remove.
    assert main(["gc", "--orphans", "--yes"]) == 2
    assert main(["gc", "--yes"]) == 0
    assert len(runs.signatures()) == 5


def test_a_run_with_a_result_is_removed_by_its_name_alone(runs: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = listed(capsys, "sweep=none")
    assert row["signature"] in printed(capsys, "gc", "--orphans", "--yes")
    assert runs.run(row["signature"]).is_done()
    assert main(["gc", "--orphans", "--yes", runs.read_sweep("multirun").signatures[0]]) == 2
    assert main(["gc", "--orphans", row["signature"][:8]]) == 0
    assert runs.run(row["signature"]).is_done()
    assert main(["gc", "--orphans", "--yes", row["signature"][:8]]) == 0
    assert not runs.run(row["signature"]).path.exists()


def test_a_run_compared_with_itself_is_one_run(runs: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert "one run" in printed(capsys, "diff", *2 * runs.signatures()[:1])
    assert "one run" not in printed(capsys, "diff", *runs.signatures()[:2])


def test_status_tells_variants_apart_in_80_columns(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["run", "-m", *WORDS, "method=mse", "method.steps.weights.enabled=true,false"]) == 0
    out = printed(capsys, "status", "multirun")
    assert "…" not in out
    letters = "".join(c for line in out.splitlines() for c in line.split("│")[1:2]).replace(" ", "").lower()
    assert "weights.enabled=true" in letters
    assert "weights.enabled=false" in letters


def test_status_shows_the_accuracy(runs: Store, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(printed(capsys, "status", "multirun", "--json"))["runs"]
    assert [row["top1"] for row in rows] == [93.0, 88.0, 93.0, 88.0]
    assert "88.00" in printed(capsys, "status", "multirun")


def test_cancel_takes_a_signature(runs: Store, capsys: pytest.CaptureFixture[str]) -> None:
    name = runs.signatures()[0]
    assert f"nothing of {name[:8]} is being executed" in printed(capsys, "cancel", name[:8])
    assert main(["cancel", "no such"]) == 2


def test_cfg_prints_the_resolved_config(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    config = yaml.safe_load(printed(capsys, "run", "--cfg", "job", "bits=w4a4", "calib.size=7"))
    assert (config["bits"], config["calib"]["size"], config["method"]["name"]) == (
        {"weight": 4, "activation": 4},
        7,
        "minmax",
    )
    several = printed(capsys, "run", "-m", "--cfg", "job", "seed=1,2")
    assert [config["seed"] for config in yaml.safe_load_all(several)] == [1, 2]
    assert not Path("runs").exists()
    assert engine.executed == []


@pytest.mark.parametrize("spelling", ["--runs-dir=elsewhere", "runs_dir=elsewhere", "VITQ_RUNS_DIR"])
def test_the_store_has_one_spelling_in_all_commands(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    words = [spelling]
    if spelling == "VITQ_RUNS_DIR":
        monkeypatch.setenv(spelling, "elsewhere")
        words = []
    assert main(["run", "-m", *WORDS, "seed=1,2", *words]) == 0
    (name, _) = Store("elsewhere").signatures()
    assert os.listdir() == ["elsewhere"]
    for command in (["status", "multirun"], ["show", name], ["logs", name], ["list", "runs"], ["gc"], ["cancel", name]):
        assert main([*command, *words]) == 0
    assert main(["report", "multirun", "--format", "csv", *words]) == 0
