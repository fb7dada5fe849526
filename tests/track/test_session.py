"""The W&B mirror, read back with W&B's own reader: `wandb leet inspect`. No network beyond localhost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.errors import refuses
from tests.track.fake_wandb import FakeWandb
from tests.track.runs import (
    SITES,
    execute,
    leet,
    log_of,
    make_config,
    offline_runs,
    read_back,
    run_record,
)
from vitq import track
from vitq.config import TrackerConfig, canonical, labels, signature
from vitq.errors import VitqError
from vitq.store import Store
from vitq.track import base
from vitq.track.values import config_of


def test_an_offline_run_reads_back_as_it_was_written(tmp_path: Path) -> None:
    config = make_config(tmp_path, seed=3, tracker={"tags": ["paper", "minmax"]})
    run_dir = execute(config)
    run = read_back(config)
    assert (run["run_id"], run["project"]) == (signature(config), "vitq")
    assert (run["state"], run["exit_code"]) == ("finished", 0)
    assert run["name"] == "deit_tiny minmax W4A4 c32 s3"
    assert run["tags"] == ["deit_tiny", "minmax", "W4A4", "paper"]
    assert {key: run["summary"][key] for key in ("top1", "top5", "fp_top1", "drop", "agreement", "n_eval")} == {
        "top1": 71.5,
        "top5": 90.25,
        "fp_top1": 72.0,
        "drop": 0.5,
        "agreement": 95.0,
        "n_eval": 650,
    }
    assert run["summary"]["seconds"] == 3.5
    assert run["summary"]["nonfinite"] == ["metrics.nll"]
    assert "nll" not in run["summary"]
    assert "kl" not in run["summary"]
    (folder,) = offline_runs(config)
    assert run["summary"]["provenance"]["_type"] == "table-file"  # no columns of a run table
    facts = dict(json.loads((folder / "files" / run["summary"]["provenance"]["path"]).read_text())["data"])
    assert facts["attempt"] == "2"
    assert log_of(run_dir) == ""


def test_group_and_job_type(tmp_path: Path) -> None:
    quantized = make_config(tmp_path / "a")
    execute(quantized, group="paper_table_2")
    record = run_record(quantized)
    assert (record["run_group"], record["job_type"]) == ("paper_table_2", "ptq")

    plain = make_config(tmp_path / "b", method={"name": "fp32", "kinds": {}, "steps": {}})
    execute(plain, group=None)
    record = run_record(plain)
    assert record["job_type"] == "fp32"
    assert record.get("run_group", "") == ""
    assert record["display_name"] == "deit_tiny fp32"
    assert record["tags"] == ["deit_tiny", "fp32", "FP"]


def test_the_config_holds_the_hashed_fields_and_nothing_volatile(tmp_path: Path) -> None:
    config = make_config(tmp_path, bits={"sites": {"blocks.0.*": 8}})
    execute(config)
    logged = read_back(config)["config"]
    assert set(logged) == {*canonical(config), "signature", "schema_version", "label"}
    assert logged["calib"] == canonical(config)["calib"]
    assert logged["method"]["name"] == "minmax"
    assert logged["bits"]["sites"] == {"blocks/0/*": 8}  # W&B reads a dot in a key as nesting
    assert logged["label"]["steps"] == ["weights", "activations"]
    text = json.dumps(logged)
    assert "secret place" not in text
    assert "/somewhere/private" not in text
    assert "runs_dir" not in text


def test_two_attempts_have_the_same_config(tmp_path: Path) -> None:
    first, second = make_config(tmp_path / "a"), make_config(tmp_path / "b", device="cuda:1")
    assert signature(first) == signature(second)
    assert config_of(first, signature(first)) == config_of(second, signature(second))


def test_sites_and_stages_are_one_table_each(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    execute(config)
    (folder,) = offline_runs(config)
    summary = read_back(config)["summary"]
    assert (summary["sites"]["_type"], summary["sites"]["nrows"], summary["sites"]["ncols"]) == ("table-file", 2, 11)
    text = (folder / "files" / summary["sites"]["path"]).read_text()
    assert "Infinity" not in text
    assert "NaN" not in text
    table = json.loads(text)
    assert table["columns"] == [*SITES.columns, "params", "sensitivity"]
    assert [row[-2:] for row in table["data"]] == [[147456, None], [0, None]]
    assert table["data"][1][:-2] == [
        "blocks.0.attn.qkv.input",
        "post_norm",
        "197x192",
        37824,
        "uniform",
        "tensor",
        32,
        0.0,
        None,
    ]
    (log,) = folder.glob("*.wandb")
    for name in ("sites", "stages", "provenance"):  # each is an artifact as well
        assert summary[name]["artifact_path"].startswith("wandb-client-artifact://")
        assert f"run-{signature(config)}-{name}".encode() in log.read_bytes()
    stages = json.loads((folder / "files" / summary["stages"]["path"]).read_text())
    assert stages["data"] == [["steps.weights", 2.0], ["load", 1.5]]


def test_all_that_wandb_writes_lies_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    config = make_config(tmp_path)
    execute(config)
    assert len(offline_runs(config)) == 1
    assert track.folder(config) == tmp_path / "runs of 'mine'" / "wandb"
    assert not list((tmp_path / "home").rglob("*staging*"))
    assert not (tmp_path / "wandb").exists()
    assert "WANDB_DATA_DIR" not in os.environ


def test_a_data_folder_that_the_user_chose_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "chosen"))
    execute(make_config(tmp_path))
    assert list((tmp_path / "chosen").rglob("staging"))


@pytest.mark.parametrize(("given", "expected"), [("logs", "logs/wandb"), ("logs/wandb", "logs/wandb")])
def test_tracker_dir_moves_the_folder(tmp_path: Path, given: str, expected: str) -> None:
    config = make_config(tmp_path, tracker={"dir": str(tmp_path / given)})
    execute(config)
    assert len(list((tmp_path / expected).glob("offline-run-*"))) == 1


def test_a_failed_run_is_failed_in_wandb_and_its_exception_passes(tmp_path: Path, capfd: Any) -> None:
    config = make_config(tmp_path)
    cause = RuntimeError("no such block")
    with pytest.raises(RuntimeError) as raised:
        execute(config, fail=cause)
    assert raised.value is cause
    run = read_back(config)
    assert (run["state"], run["exit_code"]) == ("failed", 1)
    assert "Traceback" not in capfd.readouterr().err  # the job prints it; once is enough


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupted_run_is_failed_too(tmp_path: Path, signal: BaseException) -> None:
    config = make_config(tmp_path)
    with pytest.raises(type(signal)):
        execute(config, fail=signal)
    assert read_back(config)["exit_code"] == 1


def test_runs_one_after_another_in_one_process_are_runs_of_their_own(tmp_path: Path) -> None:
    configs = [make_config(tmp_path, seed=seed) for seed in range(3)]
    execute(configs[0])
    cause = ValueError("second")
    with pytest.raises(ValueError) as raised:
        execute(configs[1], fail=cause)
    assert raised.value is cause
    execute(configs[2])
    assert len(offline_runs(configs[0])) == 3
    runs = [read_back(config) for config in configs]
    assert [run["exit_code"] for run in runs] == [0, 1, 0]
    assert [run["config"]["seed"] for run in runs] == [0, 1, 2]
    assert ["top1" in run["summary"] for run in runs] == [True, False, True]


def test_a_run_open_in_the_same_process_is_left_alone(tmp_path: Path) -> None:
    import wandb

    config = make_config(tmp_path)
    settings = wandb.Settings(silent=True, console="off", disable_git=True)
    outer = wandb.init(mode="offline", dir=str(tmp_path), id="outer", config={"a": 1}, settings=settings)
    execute(config)
    outer.log({"still": 1})
    outer.finish()
    assert read_back(config)["config"]["signature"] == signature(config)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*-outer")
    seen = json.loads(leet(folder, "--summary"))
    assert (seen["config"], seen["summary"]["still"]) == ({"a": 1}, 1)


def test_an_id_that_was_deleted_gets_a_second_generation_which_is_remembered(tmp_path: Path, online: FakeWandb) -> None:
    config = make_config(tmp_path, tracker={"mode": "online"})
    run_id = signature(config)
    online.deleted = {run_id}
    run_dir = execute(config)
    assert online.upserted == [run_id, f"{run_id}-g2"]
    stored = json.loads(run_dir.tracker_path.read_text())
    assert (stored["id"], stored["generation"], stored["mode"]) == (f"{run_id}-g2", 2, "online")
    assert stored["url"] == f"{online.url}/lab/vitq/runs/{run_id}-g2"
    assert "trying -g2" in log_of(run_dir)
    assert run_dir.is_done()

    online.upserted.clear()
    execute(config)
    assert set(online.upserted) == {f"{run_id}-g2"}


@pytest.mark.parametrize("tracker", [{"name": "none"}, {"name": "wandb", "mode": "disabled"}])
def test_no_tracker_writes_nothing(tmp_path: Path, tracker: dict[str, Any]) -> None:
    config = make_config(tmp_path, tracker=tracker)
    run_dir = execute(config)
    assert sorted(path.name for path in Path(config.runs_dir).iterdir()) == [signature(config)]
    assert [path.name for path in run_dir.path.iterdir()] == ["result.json"]


def test_a_missing_wandb_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    with refuses(VitqError, key="package", value="wandb"):
        track.make(TrackerConfig(name="wandb"))
    assert type(track.make(TrackerConfig(name="none"))) is track.Tracker


def test_importing_track_does_not_import_wandb() -> None:
    script = "import sys, vitq.track; print([m for m in ('wandb', 'torch', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_one_package_alone_imports_wandb() -> None:
    package = Path(track.__file__).parents[1]
    importers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(
            words[0] in ("import", "from") and words[1].startswith("wandb")
            for words in map(str.split, path.read_text().splitlines())
            if len(words) > 1
        )
    }
    assert importers
    assert all(path.startswith("track/") for path in importers)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deit_tiny_patch16_224.fb_in1k", "deit_tiny"),
        ("swin_small_patch4_window7_224.ms_in1k", "swin_small"),
        ("vit_base_patch32_224.augreg_in21k_ft_in1k", "vit_base_patch32_224"),
        ("vit_base_patch16_384", "vit_base_patch16_384"),
        ("vit_digits", "vit_digits"),
    ],
)
def test_model_labels(tmp_path: Path, name: str, expected: str) -> None:
    assert labels.model_label(make_config(tmp_path, model={"name": name})) == expected


def test_the_model_is_an_artifact_on_request(tmp_path: Path) -> None:
    """What `vitq sync` would upload: W&B's file names the artifact, its staging folder holds the bytes."""
    for wanted in (True, False):
        config = make_config(tmp_path / str(wanted), tracker={"log_model": wanted})
        run_dir = Store(config.runs_dir).run(signature(config))
        run_dir.path.mkdir(parents=True)
        run_dir.model_path.write_bytes(b"the packed model")
        execute(config)
        assert log_of(run_dir) == ""
        (folder,) = offline_runs(config)
        (file,) = folder.glob("*.wandb")
        assert (f"model-{signature(config)}".encode() in file.read_bytes()) is wanted
        staged = [path for path in Path(config.runs_dir).rglob("*") if path.is_file() and path != run_dir.model_path]
        assert any(path.read_bytes() == b"the packed model" for path in staged) is wanted
