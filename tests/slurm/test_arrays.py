"""Arrays on the real cluster: how runs become jobs, and how the ends of jobs become the ends of runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fake_engine import FakeEngine
from tests.fake_worker import launch, until
from tests.slurm.cluster import Cluster
from tests.slurm.sweeps import facts, launched, make, real, tidy
from vitq import report
from vitq.launchers.slurm import commands

LAUNCHES: dict[str, dict[str, Any]] = {
    "inline": {}, "local": {"slots": 2, "threads": 1}, "slurm": {"runs_per_job": 2}
}  # fmt: skip
BITS = "bits=w8a8,w6a6,w4a4,w3a3"


def test_more_jobs_than_an_array_may_have(cluster: Cluster, engine: FakeEngine, repo: Path, tmp_path: Path) -> None:
    """16 runs where MaxArraySize is 6: three arrays, as far as these say; each run is executed once."""
    planned = make(repo, tmp_path, BITS, "method=minmax,mse,percentile,repq_vit")
    failed, text = launch(planned)
    print(text)
    assert failed == []
    assert all(planned.store.run(run.signature).is_done() for run in planned.runs)
    assert [len(s.allocations) for s in planned.store.submissions.all()] == [6, 6, 4]
    assert text.count("done in") == 16
    assert tidy(planned.store)


def test_a_run_that_fails_and_one_whose_process_dies(
    cluster: Cluster, engine: FakeEngine, repo: Path, tmp_path: Path
) -> None:
    """The error is recorded and not tried again, the death is tried again once, and the others of that job go on."""
    count = f"open({str(tmp_path / 'tried')!r}, 'a').write(str(config.bits.weight))"
    fail = f"({count}, 1 / 0 if config.bits.weight == 4 else os.kill(os.getpid(), 9) if config.bits.weight == 6 else 0)"
    planned = make(repo, tmp_path, BITS, fail=fail, runs_per_job=4)
    failed, _ = launch(planned)
    by_bits = {run.config.bits.weight: planned.store.run(run.signature) for run in planned.runs}
    assert [by_bits[bits].is_done() for bits in (8, 6, 4, 3)] == [True, False, False, True]
    assert sorted(failed) == sorted(by_bits[bits].signature for bits in (6, 4))
    error, death = (by_bits[bits].read_status() for bits in (4, 6))
    assert error is not None
    assert death is not None
    assert (error.state, error.error, error.attempt) == ("failed", "ZeroDivisionError: division by zero", 1)
    assert "SIGKILL" in str(death.error)
    assert (tmp_path / "tried").read_text() == "86643"
    assert len(planned.store.submissions.all()) == 1
    assert tidy(planned.store)


def test_a_cancelled_job_is_not_submitted_again(
    cluster: Cluster, engine: FakeEngine, repo: Path, tmp_path: Path
) -> None:
    planned = make(repo, tmp_path, "bits=w8a8,w4a4", fail="time.sleep(600 if config.bits.weight == 4 else 0)")
    with launched(planned) as out:
        until(lambda: planned.store.run(planned.runs[0].signature).is_done(), "the first run is done")
        until(lambda: planned.store.run(planned.runs[1].signature).claim_path.exists(), "the second one has begun")
        token = planned.store.submissions.all()[0].token
        cluster.run("scancel", next(e.job for e in commands.elements() if (e.token, e.index) == (token, 1)))
    failed, text = out[0]
    assert failed == [planned.runs[1].signature]
    assert "was cancelled; `vitq retry` goes on from its last finished block" in text
    assert tidy(planned.store)


def test_the_time_limit(cluster: Cluster, engine: FakeEngine, repo: Path, tmp_path: Path) -> None:
    """The job is warned, stops its run and queues itself again; the second attempt ends."""
    mark = tmp_path / "warned"
    first = f"time.sleep(0 if os.path.exists({str(mark)!r}) else open({str(mark)!r}, 'w').write('x') and 600)"
    planned = make(repo, tmp_path, "bits=w4a4", fail=first, time=1, warning=10)
    with launched(planned) as out:
        until(
            lambda: "PENDING" in {e.state for e in commands.elements() if e.reason == "BeginTime"}, "it is queued again"
        )
        status = planned.store.run(planned.runs[0].signature).read_status()
        assert status is not None
        assert (status.state, status.error) == ("interrupted", "told to stop by SIGTERM")
        cluster.hurry()
    assert out[0][0] == []
    token = planned.store.submissions.all()[0].token
    assert planned.store.submissions.read_tries(token, 0).timeouts == 1
    assert tidy(planned.store)


def test_too_many_time_outs(cluster: Cluster, engine: FakeEngine, repo: Path, tmp_path: Path) -> None:
    planned = make(repo, tmp_path, "bits=w4a4", fail="time.sleep(600)", max_timeouts=0)
    with launched(planned) as out:
        until(lambda: planned.store.run(planned.runs[0].signature).claim_path.exists(), "the run has begun")
        job = next(element.job for element in commands.elements() if element.state == "RUNNING")
        cluster.run("scancel", "--batch", "--signal=USR2", job)
    failed, text = out[0]
    assert failed == [planned.runs[0].signature]
    assert "the time limit ended its job 1 times; raise launcher.options.time" in text
    assert tidy(planned.store)


def test_the_controller_goes_and_comes_back(cluster: Cluster, engine: FakeEngine, repo: Path, tmp_path: Path) -> None:
    """Meanwhile the running job ends, and the driver sees it; afterwards the second one starts."""
    go = tmp_path / "go"
    wait = f"[time.sleep(0.05) for _ in iter(lambda: os.path.exists({str(go)!r}), True)]"
    planned = make(repo, tmp_path, "bits=w8a8,w4a4", fail=wait, max_parallel=1)
    first, second = (planned.store.run(run.signature) for run in planned.runs)
    with launched(planned) as out:
        until(first.claim_path.exists, "the first run has begun")
        cluster.kill_controller()
        go.touch()
        until(first.is_done, "the first run is done")
        until(lambda: not first.claim_path.exists(), "its claim is given back")
        assert not second.is_done()
        time.sleep(7)  # the driver asks meanwhile; squeue takes four seconds to give up
        cluster.start_controller()
    failed, text = out[0]
    assert failed == []
    assert second.is_done()
    assert "running jobs go on, asked again until it does" in text
    assert "the SLURM controller answers again" in text
    assert tidy(planned.store)


def test_a_node_that_is_only_thought_dead(cluster: Cluster, engine: FakeEngine, repo: Path, tmp_path: Path) -> None:
    """slurmd is killed and its job lives on: SLURM starts the job elsewhere, and that leaves the run to its owner."""
    go, log = tmp_path / "go", tmp_path / "log"
    wait = f"[time.sleep(0.05) for _ in iter(lambda: os.path.exists({str(go)!r}), True)]"
    planned = make(repo, tmp_path, "bits=w4a4", fail=f"(open({str(log)!r}, 'a').write('x'), {wait})")
    run_dir = planned.store.run(planned.runs[0].signature)
    with launched(planned) as out:
        until(run_dir.claim_path.exists, "the run has begun")
        node = cluster.run("squeue", "-h", "-o", "%N").strip()
        cluster.kill_node(node, jobs=False)
        until(lambda: "PENDING" in {e.state for e in commands.elements()}, "the job is queued again")
        cluster.hurry()
        submission = planned.store.submissions.all()[0]
        output = planned.store.submissions.log_path(submission.token, 0)
        until(lambda: "executed by another process; skipped" in output.read_text(), "the second job leaves it alone")
        go.touch()
    assert out[0][0] == []
    assert log.read_text() == "x"
    assert tidy(planned.store)


def test_a_store_whose_path_has_spaces_and_quotes(
    cluster: Cluster, engine: FakeEngine, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / 'it\'s a "store" 100% $HOME'
    odd.mkdir()
    monkeypatch.chdir(odd)
    planned = make(repo, tmp_path, "bits=w8a8")
    assert planned.store.root == odd / "runs"
    failed, _ = launch(planned)
    assert failed == []
    submission = planned.store.submissions.all()[0]
    assert "restarts" in planned.store.submissions.log_path(submission.token, 0).read_text()


def test_three_launchers_one_table(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real engine: in this process, in local slots, and on two nodes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["method=fp32,minmax,repq_vit", "bits=w4a4", "data.eval_limit=64", "calib.size=32"]
    plans = [real(tmp_path, launcher, *words, **options) for launcher, options in LAUNCHES.items()]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert [launch(planned)[0] for planned in plans] == [[], [], []]
    finally:
        torch.set_num_threads(threads)
    inline, local, cluster_ = (facts(planned) for planned in plans)
    assert len(inline) == 3
    assert inline == local == cluster_
    tables = [report.table(planned.store, "test").drop(columns=["seconds", "quantize_seconds"]) for planned in plans]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
