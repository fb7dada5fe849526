"""Told to stop: records say so, claims are given back, children end as anybody expects."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.forked import Forked
from tests.job.planner import Planner
from vitq import signals
from vitq.job import worker
from vitq.store import Run, RunDir
from vitq.store.claim import Claim

STOPPED_TWICE = """
import os, signal, sys, time
from vitq import signals

number = int(sys.argv[1])
before = {each: signal.getsignal(each) for each in signals.STOPPING}
try:
    with signals.interruptible():
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), number)  # what cleans up is not disturbed
            time.sleep(0.01)
except signals.Interrupted as stop:
    assert stop.number == number
    assert {each: signal.getsignal(each) for each in signals.STOPPING} == before
    print(stop)
"""


IGNORED_AT_FIRST = """
import os, signal, time, weakref
from vitq import signals

class Thing:
    pass

try:
    with signals.interruptible():
        thing = Thing()
        # As in the import system, which drops its locks so: Python cannot raise what a callback raises.
        callback = weakref.ref(thing, lambda _: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(0.01)))
        del thing
        print("ignored")
        time.sleep(60)
except signals.Interrupted as stop:
    print(stop)
"""


SWALLOWED = """
import os, signal, time
from vitq import signals

try:
    with signals.interruptible(insist=0.2):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except:
            print("swallowed")
        try:
            time.sleep(60)
        except signals.Interrupted:
            signals.acknowledge()
            time.sleep(0.6)
            print("cleaned up")
            raise
except signals.Interrupted as stop:
    print(stop)
"""


def test_a_signal_that_a_library_swallows_is_raised_until_it_is_acknowledged() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["swallowed", "cleaned up", "told to stop by SIGTERM"], done.stderr


def test_a_signal_that_python_cannot_raise_at_once_is_raised_later() -> None:
    done = subprocess.run([sys.executable, "-c", IGNORED_AT_FIRST], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ignored\ntold to stop by SIGTERM\n"), done.stderr


@pytest.mark.parametrize("number", signals.STOPPING)
def test_a_signal_becomes_one_exception(number: signal.Signals) -> None:
    """In a process of its own, which lives without threads other than the main one."""
    command = [sys.executable, "-c", STOPPED_TWICE, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, f"told to stop by {number.name}"), done.stderr


def test_a_claim_is_given_back_whenever_the_signal_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the claim's file and its use, too."""
    run_dir = Planner(tmp_path).plan("minmax")
    told = signals.Interrupted(signal.SIGTERM)

    def take(run_dir: RunDir) -> Claim | None:
        assert Claim.take(run_dir) is not None
        assert run_dir.claim_path.exists()
        raise told

    with pytest.raises(signals.Interrupted):
        worker._attempt(run_dir, None, take)
    assert not list(run_dir.path.glob("claim*"))


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
    process = Forked(tmp_path, worker.main, ["--runs-dir", str(planner.store.root), run_dir.signature])
    process.wait_until(lambda: (status := run_dir.status_hint()) is not None and status.stage == "reconstruct")
    process.send_signal(number)
    assert process.wait() == 128 + number
    assert "finished blocks are kept" in process.err
    run = Run(run_dir)
    assert (run.state, run.reason) == ("interrupted", f"told to stop by {number.name}")
    assert not list(run_dir.path.glob("claim*"))
    assert not run_dir.is_done()


def method(name: str, iterations: int) -> dict[str, object]:
    import yaml

    raw = yaml.safe_load((Path(__file__).resolve().parent.parent / "conf" / "method" / f"{name}.yaml").read_text())
    raw["iterations"] = iterations
    return dict(raw)
