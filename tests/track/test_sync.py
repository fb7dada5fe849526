"""`vitq sync` against a W&B server on this machine: what is missing arrives, once, whatever happened before."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.errors import command_refuses
from tests.track.fake_wandb import FakeWandb
from tests.track.runs import KEY, SITES, execute, kill_service, make_config, make_result, offline_runs
from vitq import track
from vitq.cli import main
from vitq.config import signature
from vitq.probes.stored_probe import META
from vitq.store import RunDir, Store, mirror_record
from vitq.store.status import Status
from vitq.store.sweeps import SweepRecord
from vitq.track.upload_plan import ended_with


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB__GRAPHQL_RETRY_MAX", "1")  # 0 means W&B's default: hours
    monkeypatch.setenv("WANDB__GRAPHQL_RETRY_WAIT_MIN_SECONDS", "0.1")
    monkeypatch.setenv("WANDB__GRAPHQL_RETRY_WAIT_MAX_SECONDS", "0.1")


def tracked(folder: Path, seed: int, fail: bool = False) -> RunDir:
    """A run that ended, with its record and its offline mirror."""
    config = make_config(folder, seed=seed)
    run_dir = Store(config.runs_dir).run(signature(config))
    run_dir.write_config(config.to_dict())
    run_dir.write_sites(SITES)
    if fail:
        with pytest.raises(RuntimeError):
            execute(config, fail=RuntimeError("no such block"))
        run_dir.write_status(Status(state="failed", error="RuntimeError: no such block"))
    else:
        execute(config)
    return run_dir


def root(run_dir: RunDir) -> str:
    return str(run_dir.path.parent)


def sync(run_dir: RunDir, *words: str) -> int:
    return main(["sync", *words, "--runs-dir", root(run_dir)])


def uploaded(run_dir: RunDir) -> mirror_record.Upload | None:
    known = mirror_record.read(run_dir)
    return known.uploaded if known else None


def test_every_run_arrives_once_and_whole(
    tmp_path: Path, online: FakeWandb, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tracked(tmp_path, seed=1), tracked(tmp_path, seed=2, fail=True)
    assert sync(good) == 0
    assert set(online.upserted) == {good.signature, bad.signature}
    arrived = online.runs[good.signature]
    assert (arrived.exit_code, arrived.summary["top1"], arrived.group) == (0, 71.5, "demo")
    assert arrived.config["signature"] == {"value": good.signature}
    assert arrived.config["seed"] == {"value": 1}
    assert (online.runs[bad.signature].exit_code, online.runs[bad.signature].summary["error"]) == (
        1,
        "RuntimeError: no such block",
    )
    upload = uploaded(good)
    assert upload is not None
    assert (upload.server, upload.entity, upload.project, upload.id) == (online.url, "lab", "vitq", good.signature)
    assert f"{online.url}/lab/vitq/runs/{good.signature}" in capsys.readouterr().out

    online.upserted.clear()
    assert sync(good) == 0
    assert online.upserted == []
    assert "2 runs: 2 uploaded before" in capsys.readouterr().out


def test_what_failed_to_arrive_is_tried_again_and_nothing_else(tmp_path: Path, online: FakeWandb) -> None:
    one, two = tracked(tmp_path, seed=1), tracked(tmp_path, seed=2)
    online.broken = {two.signature}
    assert sync(one) == 1
    assert uploaded(one) is not None
    assert uploaded(two) is None
    online.broken, online.upserted = set(), []
    assert sync(one) == 0
    assert set(online.upserted) == {two.signature}


def test_a_later_attempt_is_uploaded_anew(tmp_path: Path, online: FakeWandb) -> None:
    run_dir = tracked(tmp_path, seed=1, fail=True)
    assert sync(run_dir) == 0
    assert online.runs[run_dir.signature].exit_code == 1
    tracked(tmp_path, seed=1)
    assert sync(run_dir) == 0
    assert online.runs[run_dir.signature].exit_code == 0
    assert online.runs[run_dir.signature].summary["top1"] == 71.5


def test_a_run_that_was_probed_since_is_uploaded_with_its_probe(tmp_path: Path, online: FakeWandb) -> None:
    run_dir, other = tracked(tmp_path, seed=1), tracked(tmp_path, seed=2)
    assert sync(run_dir) == 0
    arrays = {"random.scalar.sharpness": np.array(1.5), META: np.array(json.dumps({"made_at": "2026-01-01T00:00:00Z"}))}
    picture = io.BytesIO()
    Image.new("RGB", (2, 2)).save(picture, "PNG")
    run_dir.write_probe("landscape", arrays, picture.getvalue())
    online.upserted.clear()
    assert sync(run_dir) == 0
    assert set(online.upserted) == {run_dir.signature}, f"{other.signature} has no probe"
    summary = online.runs[run_dir.signature].summary
    assert summary["probes/landscape/random.sharpness"] == 1.5
    assert summary["probes/landscape"]["_type"] == "image-file"
    online.upserted.clear()
    assert sync(run_dir) == 0
    assert online.upserted == []


def test_a_deleted_id_gets_another_generation_which_is_remembered(tmp_path: Path, online: FakeWandb) -> None:
    run_dir, other = tracked(tmp_path, seed=1), tracked(tmp_path, seed=2)
    online.deleted = {run_dir.signature}
    assert sync(run_dir) == 0
    known = mirror_record.read(run_dir)
    assert known is not None
    assert (known.id, known.generation) == (f"{run_dir.signature}-g2", 2)
    assert online.runs[f"{run_dir.signature}-g2"].summary["top1"] == 71.5
    assert uploaded(other) is not None
    online.upserted.clear()
    assert sync(run_dir) == 0
    assert online.upserted == []


@pytest.mark.parametrize("damage", ["gone", "cut off", "never tracked"])
def test_a_mirror_that_is_not_whole_is_rebuilt_first(tmp_path: Path, online: FakeWandb, damage: str) -> None:
    run_dir = tracked(tmp_path, seed=1)
    (folder,) = offline_runs(make_config(tmp_path, seed=1))
    (file,) = folder.glob("*.wandb")
    if damage == "gone":
        file.unlink()
    elif damage == "cut off":
        os.truncate(file, 7)  # all that is there of a run killed within its first seconds
        assert not ended_with(folder, 0)
    else:
        run_dir.tracker_path.unlink()
    assert sync(run_dir) == 0
    assert online.runs[run_dir.signature].summary["top1"] == 71.5
    assert uploaded(run_dir) is not None


def test_a_service_that_died_during_the_run_costs_nothing(tmp_path: Path, online: FakeWandb) -> None:
    config = make_config(tmp_path, seed=1)
    run_dir = Store(config.runs_dir).run(signature(config))
    run_dir.write_config(config.to_dict())
    run_dir.write_sites(SITES)
    with track.make(config.tracker).run(config, run_dir.signature, "demo", run_dir) as run:
        run_dir.write_result(make_result(config))
        kill_service()
        run.result(make_result(config), SITES)
    (folder,) = offline_runs(config)
    assert not ended_with(folder, 0)
    assert sync(run_dir) == 0
    arrived = online.runs[run_dir.signature]
    assert (arrived.exit_code, arrived.summary["top1"], arrived.group) == (0, 71.5, "demo")


def test_no_network_is_said_and_costs_nothing(
    tmp_path: Path, online: FakeWandb, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tracked(tmp_path, seed=1)
    before = run_dir.result_path.read_bytes()
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert sync(run_dir) == 1
    assert "connection refused" in capsys.readouterr().out
    assert run_dir.result_path.read_bytes() == before
    monkeypatch.setenv("WANDB_BASE_URL", online.url)
    assert sync(run_dir) == 0


def test_without_a_key_it_says_how_to_log_in(
    tmp_path: Path, online: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tracked(tmp_path, seed=1)
    monkeypatch.delenv("WANDB_API_KEY")
    command_refuses(["sync", "--runs-dir", root(run_dir)], key="WANDB_API_KEY")
    assert online.upserted == []


def test_a_dry_run_names_states_and_touches_nothing(
    tmp_path: Path, online: FakeWandb, capsys: pytest.CaptureFixture[str]
) -> None:
    ready, lost = tracked(tmp_path, seed=1), tracked(tmp_path, seed=2)
    lost.tracker_path.unlink()
    config = make_config(tmp_path, seed=3)
    planned = Store(config.runs_dir).run(signature(config))
    planned.write_config(config.to_dict())
    names = [ready.signature, lost.signature, planned.signature]
    Store(config.runs_dir).write_sweep(SweepRecord(name="three", signatures=names))
    files = sorted(Path(config.runs_dir).rglob("*"))
    assert sync(ready, "three", "--dry-run", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["runs"] == {
        "upload": [ready.signature],
        "rebuild": [lost.signature],
        "uploaded": [],
        "unfinished": [planned.signature],
        "unreadable": [],
    }
    assert sorted(Path(config.runs_dir).rglob("*")) == files
    assert online.upserted == []


def test_another_project_gets_its_own_upload(tmp_path: Path, online: FakeWandb) -> None:
    run_dir = tracked(tmp_path, seed=1)
    assert sync(run_dir) == 0
    online.upserted.clear()
    assert sync(run_dir, "--project", "paper") == 0
    assert set(online.upserted) == {run_dir.signature}


def test_ctrl_c_keeps_what_arrived(tmp_path: Path, online: FakeWandb) -> None:
    one, two = tracked(tmp_path, seed=1), tracked(tmp_path, seed=2)
    online.hanging = {two.signature}
    command = [sys.executable, "-m", "vitq", "sync", "--runs-dir", root(one), "--jobs", "2"]
    # A group of its own, which gets the signal as a terminal's foreground group does.
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    (folder,) = (path for path in offline_runs(make_config(tmp_path)) if path.name.endswith(one.signature))
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.synced")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert uploaded(one) is not None
    assert uploaded(two) is None
    online.hanging, online.upserted = set(), []
    online.released.set()
    assert sync(one) == 0
    assert set(online.upserted) == {two.signature}


def test_a_sweep_is_refused_while_another_sync_runs(tmp_path: Path, online: FakeWandb) -> None:
    from filelock import FileLock

    run_dir = tracked(tmp_path, seed=1)
    with FileLock(run_dir.path.parent / "wandb" / ".sync.lock"):
        command_refuses(["sync", "--runs-dir", root(run_dir)], key="runs_dir", value=run_dir.path.parent)


def test_no_file_under_runs_holds_the_key(tmp_path: Path, online: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_CORE_DEBUG", "true")
    monkeypatch.setenv("WANDB_DEBUG", "true")  # W&B's own debug logs would
    run_dir = tracked(tmp_path, seed=1)
    assert sync(run_dir) == 0
    files = [path for path in run_dir.path.parent.rglob("*") if path.is_file()]
    assert any(path.name.endswith(".synced") for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
