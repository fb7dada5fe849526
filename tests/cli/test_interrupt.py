"""A sweep that is killed goes on from where it stood: nothing finished is lost, nothing half is visible."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine
from vitq.cli import main
from vitq.store import Store

WORDS = ["run", "-m", "--name", "cut", "tracker=none", "method=minmax,mse", "bits=w8a8,w6a6,w4a4,w3a3"]

# The same command line with the fake engine, a tenth of a second for each run.
SCRIPT = """
import sys, time
import pytest
from tests.fake_engine import FakeEngine
from vitq.cli import main
FakeEngine(fail=lambda config: time.sleep(0.1)).install(pytest.MonkeyPatch())
sys.exit(main(sys.argv[1:]))
"""


def table(root: Path) -> list[object]:
    """Everything a table says, in the sweep's order; times differ between machines and are left out."""
    store = Store(root)
    results = [store.run(signature).read_result() for signature in store.read_sweep("cut").signatures]
    assert all(results)
    return [(r.signature, r.metrics, r.size, {**r.config, "runs_dir": ""}) for r in results if r]


def start_and_signal(folder: Path, repo: Path, after: int, number: signal.Signals) -> tuple[int, str]:
    """Start the sweep in `folder`, send a signal once `after` runs are done; its exit code and stderr."""
    env = os.environ | {"PYTHONPATH": str(repo)}
    command = [sys.executable, "-c", SCRIPT, *WORDS]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background of a shell, SIGINT is ignored and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(list(folder.glob("runs/*/result.json"))) < after:
        assert process.poll() is None, "the sweep ended before the signal"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.parametrize("after", [1, 4, 7])
def test_sigkill_and_start_again(engine: FakeEngine, tmp_path: Path, repo: Path, after: int) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    code, _ = start_and_signal(folder, repo, after, signal.SIGKILL)
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


def test_ctrl_c_stops_cleanly(tmp_path: Path, repo: Path) -> None:
    code, err = start_and_signal(tmp_path, repo, 2, signal.SIGINT)
    assert code == 130
    assert "stopped; finished runs are kept" in err
    assert "Traceback" not in err


def test_two_drivers_of_one_sweep_execute_each_run_once(tmp_path: Path, repo: Path) -> None:
    """Both start at once; whoever claims a run executes it, the other one waits for it and prints the same table."""
    script = SCRIPT.replace(
        "time.sleep(0.1)",
        "(open('executed', 'a').write(f'{config.method.name}{config.bits.label}\\n'), time.sleep(0.1))",
    )
    env = os.environ | {"PYTHONPATH": str(repo)}
    command = [sys.executable, "-c", script, *WORDS]
    drivers = [
        subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outs = [driver.communicate(timeout=120) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outs
    executed = (tmp_path / "executed").read_text().split()
    assert len(executed) == len(set(executed)) == 8
    assert len(table(tmp_path / "runs")) == 8
    assert not list(tmp_path.glob("runs/*/claim*"))


def test_a_failure_in_the_other_driver_is_reported_by_both(tmp_path: Path, repo: Path) -> None:
    script = SCRIPT.replace("time.sleep(0.1)", "(time.sleep(0.3), 1 / 0)")
    env = os.environ | {"PYTHONPATH": str(repo)}
    command = [sys.executable, "-c", script, "run", "-m", "--name", "cut", "tracker=none", "bits=w8a8,w4a4"]
    drivers = [
        subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outs = [driver.communicate(timeout=120) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [1, 1], outs
    assert all("2 of 2 runs failed" in out for out, _ in outs)
    assert not list(tmp_path.glob("runs/*/claim*"))
