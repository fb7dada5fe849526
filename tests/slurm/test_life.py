"""The life of a sweep on the real cluster by the command line: detach, status, cancel, and starting again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import FakeEngine
from tests.fake_worker import launch, until
from tests.slurm.cluster import Cluster
from tests.slurm.sweeps import make, tidy
from vitq.cli import main
from vitq.launchers.slurm import commands, state
from vitq.launchers.slurm.driver import Driver
from vitq.planning.display import Show
from vitq.planning.launcher import launcher_of
from vitq.planning.plan import Plan

BITS = "bits=w8a8,w6a6,w4a4,w3a3"


def submit(planned: Plan) -> int:
    from rich.console import Console

    driver = Driver(planned, Show(Console(), "test", len(planned.runs)), launcher_of(planned).options)
    driver.submit()
    left: int = len(driver.waiting)
    return left


def states(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["status", "test", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def done(planned: Plan) -> int:
    return sum(planned.store.run(run.signature).is_done() for run in planned.runs)


def test_submitted_and_left_alone(
    cluster: Cluster, engine: FakeEngine, repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What runs is seen, what waits is seen with its reason; a second start finds the jobs and submits nothing."""
    go = tmp_path / "go"
    wait = f"[time.sleep(0.05) for _ in iter(lambda: os.path.exists({str(go)!r}), True)]"
    planned = make(repo, tmp_path, BITS, fail=wait, max_parallel=2)
    assert submit(planned) == 0
    until(lambda: states(capsys)["counts"].get("running") == 2, "two jobs run")
    capsys.readouterr()
    assert submit(planned) == 0
    assert "4 runs are in the queue already" in capsys.readouterr().out
    seen = states(capsys)
    assert seen["counts"] == {"running": 2, "planned": 2}
    jobs = [row["job"] for row in seen["runs"]]
    assert [job.split(maxsplit=2)[2] for job in jobs] == ["running", "running"] + ["pending (JobArrayTaskLimit)"] * 2
    assert len(planned.store.submissions.all()) == 1
    go.touch()
    failed, _ = launch(planned)
    assert failed == []
    assert len(planned.store.submissions.all()) == 1
    assert tidy(planned.store)
    # Who asks later is told by the controller, and what it has forgotten by accounting.
    names = {run.signature for run in planned.runs}
    until(
        lambda: {hint.ended for hint in state.job_states(planned.store, names).values()} == {True},
        "the jobs have ended",
    )
    job = next(iter(state.job_states(planned.store, names).values())).job
    until(lambda: commands.past_states([job]) == {job: "COMPLETED"}, "accounting knows it")


def test_cancel(
    cluster: Cluster, engine: FakeEngine, repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = make(repo, tmp_path, BITS, fail="time.sleep(600)")
    assert submit(planned) == 0
    until(lambda: states(capsys)["counts"].get("running") == 4, "all four runs are under way")
    assert main(["cancel", "test"]) == 0
    assert "cancelled 4 SLURM jobs" in capsys.readouterr().out
    token = planned.store.submissions.all()[0].token
    until(lambda: {e.state for e in commands.elements() if e.token == token} == {"CANCELLED"}, "the jobs are cancelled")
    assert states(capsys)["counts"] == {"interrupted": 4}
    assert tidy(planned.store)
    assert main(["cancel", "test"]) == 0
    assert "nothing of test is being executed" in capsys.readouterr().out


def test_detach_where_the_cluster_takes_only_some(
    cluster: Cluster, engine: FakeEngine, repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With room for three jobs in the queue the command returns, and a driver in the background submits the rest."""
    planned = make(repo, tmp_path, BITS, "method=minmax,mse", fail="time.sleep(0.3)")
    words = ["retry", "test", "--detach", "--json"]
    cluster.run("sacctmgr", "-i", "modify", "user", "root", "set", "maxsubmitjobs=3")
    try:
        assert main(words) == 0
        said = json.loads(capsys.readouterr().out)["detached"]
        assert "the cluster does not accept 5 of the runs yet" in said
        until(lambda: done(planned) == 8, "all runs are done", 120)
        pid = int(said.split("process ")[1].split()[0])
        until(lambda: not Path(f"/proc/{pid}/fd").exists() or ended(pid), "the driver has ended")
    finally:
        cluster.run("sacctmgr", "-i", "modify", "user", "root", "set", "maxsubmitjobs=-1")
    assert sum(len(s.allocations) for s in planned.store.submissions.all()) == 8
    assert tidy(planned.store)
    assert not list(planned.store.sweep_folder("test").glob("drivers/*"))


def ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def test_status_without_accounting(
    engine: FakeEngine, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cluster that keeps no accounts, then none at all: the store says the same."""
    cluster = Cluster(accounting=False)
    try:
        cluster.start()
        monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
        planned = make(repo, tmp_path, "bits=w8a8,w4a4", fail="1 / 0 if config.bits.weight == 4 else None")
        failed, _ = launch(planned)
        assert len(failed) == 1
        assert commands.past_states(["1_0"]) == {}
        until(lambda: states(capsys)["runs"][1]["job"] == "job 1_1 completed", "both jobs have ended")
        seen = states(capsys)
        assert seen["counts"] == {"done": 1, "failed": 1}
        cluster.kill_controller()
        assert [row | {"job": None} for row in states(capsys)["runs"]] == [row | {"job": None} for row in seen["runs"]]
    finally:
        cluster.stop()
