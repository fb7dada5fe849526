"""Outputs, homes and folders that are not as a program expects them: results are kept, and the message helps."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.errors import is_about
from tests.fake_engine import FakeEngine
from vitq.cli import main, output
from vitq.errors import ConfigError, Problem
from vitq.planning import compose, planner
from vitq.store import Store

# The command line with the fake engine.
SCRIPT = """
import sys
import pytest
from tests.fake_engine import FakeEngine
from vitq.cli import main
FakeEngine().install(pytest.MonkeyPatch())
sys.exit(main(sys.argv[1:]))
"""
MULTIRUN = ["run", "-m", "tracker=none", "bits=w8a8,w4a4"]


def problem_of(*words: str) -> Problem:
    file, folders = compose.root_config()
    with pytest.raises(ConfigError) as error:
        planner.make(compose.load(file, folders, words))
    return error.value.problems[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_output_costs_neither_runs_nor_report(repo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, *MULTIRUN]
    env = os.environ | {"PYTHONPATH": str(repo)}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=env, check=False
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("the output cannot be written") == 1
    store = Store(tmp_path / "runs")
    assert all(store.run(name).is_done() for name in store.signatures())
    assert (store.sweep_folder("multirun") / "report.html").stat().st_size > 0


def test_an_output_that_lacks_signs_gets_others(repo: Path, tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(repo), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *MULTIRUN, "seed=1,2"], capture_output=True, cwd=tmp_path, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("ascii")
    assert "(-" in text
    assert "+-" in text
    assert "?" not in text


@pytest.mark.parametrize(("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.ENOENT, False)])
def test_an_error_is_of_the_output_where_the_output_says_so_too(
    monkeypatch: pytest.MonkeyPatch, number: int, full: bool
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(number, "no")

    monkeypatch.setattr(sys, "stdout", Full())
    assert output.is_full(OSError(number, "no")) == full
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not output.is_full(OSError(errno.ENOSPC, "the disk of the store"))


def test_no_home_is_said_before_anything_starts(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("VITQ_CACHE_DIR")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without HOME and without an entry in passwd
    problem = problem_of()
    assert is_about(problem, "cache_dir", "~/.cache/vitq")
    assert problem.action == "cache_dir=DIR or VITQ_CACHE_DIR"
    assert engine.described == 0


def test_a_home_that_cannot_be_written_is_said_before_anything_starts(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VITQ_CACHE_DIR")
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path / "home"))  # root may all
    assert is_about(problem_of(), "cache_dir", "~/.cache/vitq")
    (tmp_path / "home" / ".cache" / "vitq").mkdir(parents=True)  # made by somebody who may
    file, folders = compose.root_config()
    assert planner.make(compose.load(file, folders)).runs[0].config.cache_dir == str(tmp_path / "home/.cache/vitq")


@pytest.mark.parametrize("words", [["status"], ["run", "--dry-run", "tracker=none"], ["list", "methods"]])
def test_a_current_folder_that_is_gone_is_said(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(words) == 2
    assert "current folder" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["runs_dir", "cache_dir", "tracker.dir"])
def test_a_url_is_no_folder(engine: FakeEngine, key: str) -> None:
    assert is_about(problem_of(f"{key}=s3://bucket/x"), key, "s3://bucket/x")
    assert os.listdir() == []


def test_an_empty_folder_is_one_that_was_not_set(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("VITQ_CACHE_DIR", "VITQ_RUNS_DIR"):
        monkeypatch.setenv(variable, "")
    file, folders = compose.root_config()
    for words in ([], ["runs_dir=", "cache_dir=", "tracker.dir="]):
        config = planner.make(compose.load(file, folders, words)).runs[0].config
        assert (config.runs_dir, config.cache_dir) == (str(tmp_path / "runs"), str(tmp_path / ".cache" / "vitq"))
        assert not config.tracker.dir


def test_folders_are_stored_whole(engine: FakeEngine, tmp_path: Path) -> None:
    assert main(["run", "tracker=none", "runs_dir=here", "cache_dir=there", "tracker.dir=wandb"]) == 0
    (name,) = Store("here").signatures()
    config = Store("here").run(name).read_config()
    assert [config["runs_dir"], config["cache_dir"], config["tracker"]["dir"]] == [
        str(tmp_path / folder) for folder in ("here", "there", "wandb")
    ]


@pytest.mark.parametrize("folder", ["runs [old]", "x[/y]", "[bold]"])
def test_brackets_in_a_path_are_no_markup(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path
) -> None:
    assert main([*MULTIRUN, f"runs_dir='{tmp_path}/{folder}'"]) == 0
    assert f"{tmp_path}/{folder}" in capsys.readouterr().out.replace("\n", "")
    assert main(["status", "multirun", "--runs-dir", f"{tmp_path}/{folder}"]) == 0


def test_figures_are_rounded_to_what_they_mean(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "tracker=none", "bits=w3a3"]) == 0
    assert capsys.readouterr().out.count("top-1 84.67 %, drop 13.33 points") == 2


def test_outputs_that_were_closed_cost_nothing(repo: Path, tmp_path: Path) -> None:
    """As services and `>&-` start programs: Python then has no stream at all."""
    words = " ".join(MULTIRUN)
    line = f"{sys.executable} -c '{SCRIPT}' {words} >&- 2>&-"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(repo)}, check=False)
    assert done.returncode == 0
    store = Store(tmp_path / "runs")
    assert [store.run(name).is_done() for name in store.signatures()] == [True, True]


@pytest.mark.parametrize("words", [["status"], ["list", "runs"], ["show", "ab"], ["gc"]])
def test_a_store_on_a_bucket_is_no_empty_store(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VITQ_RUNS_DIR", "s3://bucket/runs")
    assert main(words) == 2
    assert "s3://bucket/runs" in capsys.readouterr().err
