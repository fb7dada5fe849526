"""A sweep that is killed goes on from where it stood: nothing finished is lost, nothing half is visible."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine
from tests.forked import Forked
from vitq.cli import main
from vitq.config import RunConfig
from vitq.store import Store

WORDS = ["run", "-m", "--name", "cut", "tracker=none", "method=minmax,mse", "bits=w8a8,w6a6,w4a4,w3a3"]


def pause(config: RunConfig) -> None:
    """A tenth of a second for each run."""
    time.sleep(0.1)


def note(config: RunConfig) -> None:
    with open("executed", "a") as file:
        file.write(f"{config.method.name}{config.bits.label}\n")
    pause(config)


def fail(config: RunConfig) -> None:
    time.sleep(0.3)
    raise ZeroDivisionError


def command(words: list[str], each: Callable[[RunConfig], None]) -> int:
    """The command line with the fake engine; `each` is called with each config."""
    FakeEngine(fail=each).install(pytest.MonkeyPatch())
    return main(words)


def table(root: Path) -> list[object]:
    """Everything a table says, in the sweep's order; times differ between machines and are left out."""
    store = Store(root)
    results = [store.run(signature).read_result() for signature in store.read_sweep("cut").signatures]
    assert all(results)
    return [(r.signature, r.metrics, r.size, {**r.config, "runs_dir": ""}) for r in results if r]


def start_and_signal(folder: Path, after: int, number: signal.Signals) -> tuple[int, str]:
    """Start the sweep in `folder`, send a signal once `after` runs are done; its exit code and stderr."""
    process = Forked(folder, command, WORDS, pause)
    process.wait_until(lambda: len(list(folder.glob("runs/*/result.json"))) >= after)
    process.send_signal(number)
    return process.wait(), process.err


@pytest.mark.parametrize("after", [1, 4, 7])
def test_sigkill_and_start_again(engine: FakeEngine, tmp_path: Path, after: int) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    code, _ = start_and_signal(folder, after, signal.SIGKILL)
    assert code == -signal.SIGKILL
    finished = list(folder.glob("runs/*/result.json"))
    assert after <= len(finished) < 8
    for file in finished:
        json.loads(file.read_text())
    os.chdir(folder)
    assert main(WORDS) == 0
    assert len(engine.executed) == 8 - len(finished)
    os.chdir(tmp_path)
    assert main(WORDS) == 0
    assert table(folder / "runs") == table(tmp_path / "runs")


def test_ctrl_c_stops_cleanly(tmp_path: Path) -> None:
    code, err = start_and_signal(tmp_path, 2, signal.SIGINT)
    assert code == 130
    assert "stopped; finished runs are kept" in err
    assert "Traceback" not in err


def test_two_drivers_of_one_sweep_execute_each_run_once(tmp_path: Path) -> None:
    """Both start at once; whoever claims a run executes it, the other one waits for it and prints the same table."""
    drivers = [Forked(tmp_path, command, WORDS, note) for _ in range(2)]
    assert [driver.wait() for driver in drivers] == [0, 0], [driver.err for driver in drivers]
    executed = (tmp_path / "executed").read_text().split()
    assert len(executed) == len(set(executed)) == 8
    assert len(table(tmp_path / "runs")) == 8
    assert not list(tmp_path.glob("runs/*/claim*"))


def test_a_failure_in_the_other_driver_is_reported_by_both(tmp_path: Path) -> None:
    words = ["run", "-m", "--name", "cut", "tracker=none", "bits=w8a8,w4a4"]
    drivers = [Forked(tmp_path, command, words, fail) for _ in range(2)]
    assert [driver.wait() for driver in drivers] == [1, 1], [driver.err for driver in drivers]
    assert all("2 of 2 runs failed" in driver.out for driver in drivers)
    assert not list(tmp_path.glob("runs/*/claim*"))
