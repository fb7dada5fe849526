"""The local launcher with real worker processes: slots, failures, deaths, and the table of the inline launcher."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests import fake_worker
from tests.errors import is_about, refuses
from tests.fake_engine import FakeEngine
from tests.fake_worker import launch
from vitq import report
from vitq.errors import ConfigError
from vitq.launchers.local.launcher import Local
from vitq.launchers.local.slots import LocalOptions, slot_environments
from vitq.machine import visible_gpus
from vitq.planning import compose, planner
from vitq.planning.cancel import cancel_run
from vitq.planning.display import Show
from vitq.planning.launcher import launcher_of
from vitq.planning.plan import Plan
from vitq.store import Store, claim


def make(repo: Path, folder: Path, *words: str, fail: str = "time.sleep(0.05)", **options: Any) -> Plan:
    """A committed plan of `launcher=local` whose workers execute the fake engine."""
    return fake_worker.make(repo, folder, "local", *words, fail=fail, **options)


def test_all_runs_end_with_a_result_and_no_claim(engine: FakeEngine, repo: Path, tmp_path: Path) -> None:
    planned = make(repo, tmp_path, "bits=w8a8,w6a6,w4a4,w3a3", "method=minmax,mse", slots=2, runs_per_process=2)
    failed, text = launch(planned)
    assert failed == []
    assert all(planned.store.run(run.signature).is_done() for run in planned.runs)
    assert text.count("done in") == 8
    assert not list(planned.store.root.glob("*/claim*"))
    failed, text = launch(planned)
    assert text.count("finished before, skipped") == 8


def test_a_failed_run_is_recorded_and_the_others_go_on(engine: FakeEngine, repo: Path, tmp_path: Path) -> None:
    fail = "1 / 0 if config.bits.weight == 4 else None"
    planned = make(repo, tmp_path, "bits=w8a8,w4a4,w3a3", fail=fail, slots=1)
    failed, text = launch(planned)
    assert len(failed) == 1
    status = planned.store.run(failed[0]).read_status()
    assert status is not None
    assert status.state == "failed"
    assert status.error == "ZeroDivisionError: division by zero"
    assert text.count("done in") == 2


def test_a_worker_that_is_killed_takes_its_own_run_alone(engine: FakeEngine, repo: Path, tmp_path: Path) -> None:
    fail = "os.kill(os.getpid(), signal.SIGKILL) if config.bits.weight == 4 else None"
    planned = make(repo, tmp_path, "bits=w8a8,w4a4,w3a3,w6a6", fail=fail, slots=1, runs_per_process=8, max_retries=1)
    failed, text = launch(planned)
    assert len(failed) == 1
    status = planned.store.run(failed[0]).read_status()
    assert status is not None
    assert "SIGKILL" in str(status.error)
    assert sum(planned.store.run(run.signature).is_done() for run in planned.runs) == 3
    assert text.count("done in") == 3


def test_a_death_is_retried_and_then_succeeds(engine: FakeEngine, repo: Path, tmp_path: Path) -> None:
    mark = tmp_path / "died"
    die = f"(open({str(mark)!r}, 'w').close(), os.kill(os.getpid(), signal.SIGKILL))"
    fail = f"{die} if not os.path.exists({str(mark)!r}) else None"
    planned = make(repo, tmp_path, "bits=w8a8", fail=fail, slots=1)
    failed, _ = launch(planned)
    assert failed == []
    assert mark.exists()


def test_ctrl_c_ends_the_workers_and_keeps_what_is_finished(engine: FakeEngine, repo: Path, tmp_path: Path) -> None:
    planned = make(repo, tmp_path, "bits=w8a8,w6a6,w4a4,w3a3", fail="time.sleep(0.4)", slots=1)
    pids: list[int] = []

    def interrupt() -> None:
        store = Store(planned.store.root)
        while not any(store.run(run.signature).is_done() for run in planned.runs):
            time.sleep(0.01)
        holders = [line for run in planned.runs for line in [store.run(run.signature).claim_path] if line.exists()]
        pids.extend(int(p.read_text().split('"pid": ')[1].split(",")[0]) for p in holders)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        launch(planned)
    thread.join()
    done = [run.signature for run in planned.runs if planned.store.run(run.signature).is_done()]
    assert 1 <= len(done) < 4
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    failed, _ = launch(planned)
    assert failed == []


def test_one_run_is_cancelled_and_the_others_go_on(engine: FakeEngine, repo: Path, tmp_path: Path) -> None:
    fail = "time.sleep(60 if config.seed == 1 else 0.05)"
    planned = make(repo, tmp_path, "seed=1,2", fail=fail, slots=1)
    long = planned.store.run(planned.runs[0].signature)

    def cancel() -> None:
        # Not for a state: between the claim and the first status lie a few milliseconds, which a busy machine misses.
        while not claim.is_held(long):
            time.sleep(0.02)
        cancel_run(planned.store, long.signature)

    threading.Thread(target=cancel, daemon=True).start()
    failed, text = launch(planned)
    assert failed == [long.signature]
    assert planned.store.run(planned.runs[1].signature).is_done()
    assert "told to stop" in text
    assert not claim.is_held(long)


def test_slots_share_the_cores_and_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc,7")
    assert visible_gpus() == ["5", "GPU-abc", "7"]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in slot_environments(LocalOptions())] == ["5", "GPU-abc", "7"]
    assert {place["OMP_NUM_THREADS"] for place in slot_environments(LocalOptions())} == {"2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slot_environments(LocalOptions()) == [{"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}] * 4
    assert len(slot_environments(LocalOptions(slots=3, threads=1))) == 3


def test_bad_options_are_named_before_anything_starts(engine: FakeEngine, repo: Path, tmp_path: Path) -> None:
    (problem,) = Local.check({"slots": 0})
    assert is_about(problem, "launcher.options.slots", 0)
    with refuses(ConfigError, key="launcher.options.slot", value="slot", valid=["slots"]):
        make(repo, tmp_path, "+launcher.options.slot=2")


@pytest.mark.slow
def test_the_table_is_that_of_the_inline_launcher(tmp_path: Path) -> None:
    """The real engine on the embedded ViT, in this process and in two workers."""
    tables = []
    for launcher in ("inline", "local"):
        file, roots = compose.root_config()
        words = ["tracker=none", f"launcher={launcher}", f"runs_dir={tmp_path / launcher}", "data.eval_limit=64"]
        words += ["method=minmax,repq_vit", "bits=w4a4"]
        planned = planner.make(compose.load(file, roots, words, multirun=True), name="test")
        planned.commit()
        with Show(Console(file=io.StringIO()), "test", 2) as show:
            assert launcher_of(planned).launch(planned, show) == []
        table = report.table(planned.store, "test")
        tables.append(table.drop(columns=["seconds", "quantize_seconds"]))
    assert tables[0].equals(tables[1])
