"""Watching, reading logs, clearing up: commands that act on a store alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.errors import command_refuses
from tests.fake_engine import FakeEngine
from tests.report.conftest import config, correct, finish
from vitq.cli import main
from vitq.config import RunConfig
from vitq.planning import compose, planner
from vitq.planning.resume import stored_plan
from vitq.store import Run, RunDir, Store, SweepRecord, claim
from vitq.store.status import Status
from vitq.store.submissions import Submission


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store("runs")


def planned(store: Store, method: str, status: Status | None = None) -> str:
    """A run without a result."""
    from vitq.config import signature

    made = config(method)
    run = store.run(signature(made))
    run.write_config(made.to_dict())
    if status:
        run.write_status(status)
    return run.signature


def claimed(run_dir: RunDir) -> claim.Claim:
    """This process executes the run, as far as others can see."""
    taken = claim.Claim.take(run_dir)
    assert taken is not None
    return taken


def test_eta_follows_the_pace_of_the_stage(store: Store) -> None:
    times = {"stage_at": "2026-11-21T10:00:00+00:00", "updated_at": "2026-11-21T12:00:30+02:00"}
    running = Status(state="running", stage="reconstruct", done=10, total=40, host="elsewhere", pid=1, **times)
    run = Run(store.run(planned(store, "a", running)))
    with claimed(run.dir):
        state = run.read_state()
        assert (state.state, state.stage, state.eta) == ("running", "reconstruct 10/40", 90.0)
    state = run.read_state()
    assert (state.state, state.stage, state.eta) == ("interrupted", "reconstruct 10/40", None)
    unknown = Run(store.run(planned(store, "b", running.model_copy(update={"done": 0}))))
    with claimed(unknown.dir):
        assert (unknown.state, unknown.read_state().eta) == ("running", None)


def test_status_lists_all_sweeps(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert "no sweep was started" in capsys.readouterr().out
    store.write_sweep(SweepRecord(name="one", signatures=[finish(store, config("a"), correct(1)), planned(store, "b")]))
    store.write_sweep(SweepRecord(name="two", signatures=[planned(store, "b")]))
    assert main(["status"]) == 0
    assert capsys.readouterr().out.splitlines() == ["one: 1 done, 1 planned", "two: 1 planned"]


def test_watch_ends_when_nothing_is_left_to_do(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    signature = planned(store, "a")
    store.write_sweep(SweepRecord(name="one", signatures=[signature]))
    later = threading.Timer(0.3, lambda: finish(store, config("a"), correct(1)))
    later.start()
    assert main(["status", "one", "--watch", "0.05"]) == 0
    assert "1 done of 1 runs" in capsys.readouterr().out


def test_logs_of_a_run_by_the_beginning_of_its_signature(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    failed = planned(
        store, "a", Status(state="failed", error="ValueError: no", traceback="Traceback\nValueError: no\n")
    )
    store.run(failed).log_path.write_text("first attempt\n")
    done = finish(store, config("b"), correct(1))
    assert main(["logs", failed[:6]]) == 0
    assert capsys.readouterr().out == "first attempt\n"
    assert main(["logs", failed, "--traceback"]) == 0
    assert capsys.readouterr().out.endswith("ValueError: no\n")
    assert main(["logs", done, "--traceback"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert done in err
    assert main(["logs", done]) == 0
    assert capsys.readouterr().out == ""
    command_refuses(["logs", "zz"], key="signature", value="zz")
    command_refuses(["logs", ""], key="signature", value="", valid=[failed, done])


def test_logs_follow_a_run_to_its_end(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    signature = planned(store, "a", Status(state="running", pid=os.getpid(), host="elsewhere"))
    log = store.run(signature).log_path
    log.write_text("begin\n")
    held = claimed(store.run(signature))

    def work() -> None:
        with held:
            time.sleep(0.2)
            with log.open("a") as file:
                file.write("middle\n")
            finish(store, config("a"), correct(1))
        with log.open("a") as file:
            file.write("end\n")

    worker = threading.Thread(target=work)
    worker.start()
    assert main(["logs", signature, "--follow"]) == 0
    worker.join()
    assert capsys.readouterr().out.startswith("begin\nmiddle\n")


def test_gc_keeps_what_is_needed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    done, loose = finish(store, config("a"), correct(1)), finish(store, config("b"), correct(1))
    half = planned(store, "c", Status(state="failed", error="x"))
    alive = planned(store, "d", Status(state="running", pid=os.getpid(), host="elsewhere"))
    for signature in (done, half, alive):
        store.run(signature).state_dir.mkdir()
        (store.run(signature).state_dir / "block").write_bytes(b"x" * 1000)
    store.write_sweep(SweepRecord(name="one", signatures=[done, half]))
    code = "import os; from vitq.store.atomic import host_id; print(host_id(), os.getpid())"
    writer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    host, pid = writer.stdout.split()
    leavings = [store.run(done).path, store.run(done).artifacts_dir, store.sweep_folder("one"), store.root]
    for folder in leavings:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".result.json.{host}.{pid}.0.tmp").write_text("{")
    for token, names in {"0" * 12: [[done], [loose]], "1" * 12: [[done], [half]]}.items():
        words: dict[str, Any] = {"command": [], "max_retries": 1, "max_timeouts": 1}
        store.submissions.write(Submission(token=token, allocations=names, **words))
    held = claimed(store.run(alive))

    assert main(["gc"]) == 0
    assert "6 items" in capsys.readouterr().out
    assert len(list(store.root.rglob("*.tmp"))) == len(leavings)
    assert main(["gc", "--yes"]) == 0
    assert not list(store.root.rglob("*.tmp"))
    assert [submission.token for submission in store.submissions.all()] == ["1" * 12]
    assert not store.run(done).state_dir.exists()
    assert store.run(half).state_dir.exists()  # it goes on from there
    assert main(["gc", "--yes", "--orphans"]) == 0
    assert store.run(loose).is_done()  # a result goes by its name alone
    assert main(["gc", "--yes", "--orphans", loose]) == 0
    assert not store.run(loose).path.exists()
    assert store.run(alive).path.exists()  # under way
    assert store.run(done).is_done()
    capsys.readouterr()
    assert main(["gc"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"
    held.release()


def test_retry_goes_by_what_is_stored(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(run: RunConfig) -> None:
        if run.bits.weight == 4:
            raise ValueError("no such thing")

    engine.fail = fail
    assert main(["run", "-m", "--name", "mine", "tracker=none", "bits=w8a8,w4a4,w3a3"]) == 1
    store = Store("runs")
    _, failed, lost = store.read_sweep("mine").signatures
    store.run(lost).result_path.unlink()  # a record that says done without a result is a failure too
    before = len(engine.executed)
    assert main(["retry", "mine", "--failed"]) == 1
    assert engine.executed[before:] == [failed, lost]
    engine.fail = lambda run: None
    assert main(["retry", "mine", failed[:8]]) == 0
    assert engine.executed[before:] == [failed, lost, failed]
    assert "3 done" in capsys.readouterr().out
    command_refuses(["retry", "mine"], key="sweep", value="mine")
    command_refuses(["retry", "nothing"], key="sweep", value="nothing")


def test_retry_of_what_time_limits_ended_and_with_another_launcher(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    def commit(name: str, *words: str) -> None:
        file, roots = compose.root_config()
        planner.make(compose.load(file, roots, ["tracker=none", *words], multirun=True), name=name).commit()

    commit("mine", "bits=w8a8,w4a4,w3a3", "launcher=local")
    store = Store("runs")
    late, broken, _ = store.read_sweep("mine").signatures
    store.run(late).write_status(Status(state="failed", error="too long", timed_out=True))
    store.run(broken).write_status(Status(state="failed", error="x"))
    before = len(engine.executed)
    assert main(["retry", "mine", "--timeout", "launcher=inline"]) == 0
    assert engine.executed[before:] == [late]
    # What the sweep was started with holds, even if another sweep has planned its runs since.
    commit("other", "bits=w4a4", "launcher=inline")
    stored = stored_plan(store, "mine")
    assert stored.launcher.name == "local"
    assert stored_plan(store, "mine", None, ["launcher.options.slots=3"]).launcher.options["slots"] == 3
    assert stored_plan(store, "mine", None, ["launcher=slurm", "launcher.options.time=9"]).launcher.options["time"] == 9
    command_refuses(["retry", "mine", "launcher=slurmm"], key="launcher", value="slurmm", valid=["slurm"])
    command_refuses(["retry", "mine", "launcher.options.slots=0"], key="launcher.options.slots", value=0)
    command_refuses(["retry", "mine", "calib.size=3"], key="calib.size", value="calib.size=3", valid=["launcher=…"])


def test_cancel_interrupts_who_holds_a_run(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    signature = planned(store, "a", Status(state="running", pid=1, host="x"))
    store.write_sweep(SweepRecord(name="one", signatures=[signature, planned(store, "b")]))
    assert main(["cancel", "one"]) == 0
    assert "nothing of one is being executed" in capsys.readouterr().out
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from vitq.store import RunDir\nfrom vitq.store.claim import Claim\n"
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with Claim.take(RunDir(Path(sys.argv[1]))):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(store.run(signature).path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        assert main(["cancel", "one"]) == 0
        assert f"process {owner.pid} was told to stop" in capsys.readouterr().out
        assert owner.wait(timeout=30) != 0
    assert not store.run(signature).claim_path.exists()
    elsewhere = claim.this_process().model_copy(update={"host": "elsewhere-1"})
    store.run(signature).claim_path.write_text(elsewhere.to_json())
    assert main(["cancel", "one"]) == 1
    assert "cancel it there" in capsys.readouterr().out
