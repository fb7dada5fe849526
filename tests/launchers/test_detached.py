"""`--detach` with local slots: the command returns, a driver in the background goes on, and `vitq cancel` ends it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from tests.fake_engine import FakeEngine
from tests.fake_worker import until
from tests.launchers.test_local import make
from vitq.cli import main


def detach(capsys: pytest.CaptureFixture[str], *words: str) -> psutil.Process:
    """The driver."""
    capsys.readouterr()
    assert main(["retry", "test", "--detach", "--json", *words]) == 0
    said = json.loads(capsys.readouterr().out)["detached"]
    return psutil.Process(int(said.split("process ")[1].split()[0]))


def test_the_driver_finishes_the_sweep(
    engine: FakeEngine, repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = make(repo, tmp_path, "bits=w8a8,w4a4", slots=1)
    driver = detach(capsys)
    assert os.getsid(driver.pid) == driver.pid, "a session of its own"
    driver.wait(90)
    assert all(planned.store.run(run.signature).is_done() for run in planned.runs)
    assert "2 runs" in (planned.store.sweep_folder("test") / "driver.log").read_text()
    assert main(["retry", "test", "--detach"]) == 2, "nothing is left to do"


def test_the_driver_does_what_was_asked_for_and_no_more(
    engine: FakeEngine, repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = make(repo, tmp_path, "bits=w8a8,w4a4", slots=1)
    first, second = (planned.store.run(run.signature) for run in planned.runs)
    detach(capsys, second.signature, "launcher.options.slots=2").wait(90)
    assert (first.is_done(), second.is_done()) == (False, True)


def test_cancel_ends_the_driver_and_its_workers(
    engine: FakeEngine, repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = make(repo, tmp_path, "bits=w8a8,w6a6,w4a4", fail="time.sleep(600)", slots=2)
    driver = detach(capsys)
    until(lambda: len(list(planned.store.root.glob("*/claim"))) == 2, "both slots work")
    # A worker may have asked git something, which is on its way out.
    until(lambda: len(driver.children(recursive=True)) == 2, "two workers, and nothing that they started")
    workers = driver.children(recursive=True)
    assert main(["cancel", "test"]) == 0
    assert f"the driver, process {driver.pid}, was told to stop" in capsys.readouterr().out
    psutil.wait_procs([driver, *workers], timeout=60)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in (driver, *workers))
    assert not list(planned.store.root.glob("*/claim*"))
    assert not list(planned.store.sweep_folder("test").glob("drivers/*"))
    assert main(["cancel", "test"]) == 0
    assert "nothing of test is being executed" in capsys.readouterr().out
