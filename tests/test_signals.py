"""Told to stop: records say so, claims are given back, children end as anybody expects."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_job import Planner
from vitq import signals
from vitq.standing import standing


@pytest.mark.parametrize("number", signals.STOPPING)
def test_a_signal_becomes_one_exception(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in signals.STOPPING}

    def work() -> None:
        with signals.interruptible():
            try:
                os.kill(os.getpid(), number)
                time.sleep(5)
            finally:
                os.kill(os.getpid(), number)  # what cleans up is not disturbed
                time.sleep(0.01)

    with pytest.raises(signals.Interrupted, match=f"told to stop by {number.name}") as caught:
        work()
    assert caught.value.number == number
    assert {each: signal.getsignal(each) for each in signals.STOPPING} == before


def test_forked_children_end_by_sigterm() -> None:
    reader, writer = os.pipe()
    with signals.interruptible():
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, b"!")
                time.sleep(60)
            finally:
                os._exit(7)
        assert os.read(reader, 1) == b"!"
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_run_that_is_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    planner = Planner(tmp_path)
    run_dir = planner.plan("qdrop", calib={"size": 32}, method=method("qdrop", iterations=4000))
    command = [sys.executable, "-m", "vitq.job", "--runs-dir", str(planner.store.root), run_dir.signature]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while (status := run_dir.status_hint()) is None or status.stage != "reconstruct":
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "finished blocks are kept" in said
    stands = standing(run_dir)
    assert (stands.state, stands.error) == ("interrupted", f"told to stop by {number.name}")
    assert not list(run_dir.path.glob("claim*"))
    assert not run_dir.is_done()


def method(name: str, iterations: int) -> dict[str, object]:
    import yaml

    raw = yaml.safe_load((Path(__file__).resolve().parent.parent / "conf" / "method" / f"{name}.yaml").read_text())
    raw["iterations"] = iterations
    return dict(raw)
