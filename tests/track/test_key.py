"""The key to W&B: without one nothing waits or fails, and no file or warning shows one."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.track.fake_wandb import FakeWandb
from tests.track.runs import KEY, execute, log_of, make_config, read_back
from vitq.config import signature


def test_no_file_under_runs_holds_the_key(tmp_path: Path, online: FakeWandb) -> None:
    config = make_config(tmp_path, tracker={"mode": "online"})
    execute(config)
    assert online.upserted == [signature(config)]
    files = [path for path in Path(config.runs_dir).rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_warning_never_shows_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuse(*args: object, **kwargs: object) -> None:
        raise ValueError(f"bad key {KEY}")

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb, "init", refuse)
    assert "bad key ***" in log_of(execute(make_config(tmp_path)))


def test_online_without_a_key_is_kept_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    config = make_config(tmp_path, tracker={"mode": "online"})
    run_dir = execute(config)
    assert "going online failed" in log_of(run_dir)
    assert "No API key" in log_of(run_dir)
    assert json.loads(run_dir.tracker_path.read_text())["mode"] == "offline"
    assert read_back(config)["exit_code"] == 0


def test_on_a_terminal_no_question_waits_for_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    script = (
        "import sys, pathlib, tests.track.runs as t\n"
        "assert sys.stdin.isatty() and sys.stderr.isatty()\n"
        "t.execute(t.make_config(pathlib.Path(sys.argv[1]), tracker={'mode': 'online'}))"
    )
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            stdin=theirs,
            stderr=theirs,
            stdout=theirs,
            timeout=90,
            check=True,
        )
    finally:
        os.close(theirs)
        os.close(ours)
    assert read_back(make_config(tmp_path, tracker={"mode": "online"}))["exit_code"] == 0
