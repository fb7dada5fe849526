"""The SLURM launcher as far as it goes without a cluster; tests/slurm/ drives a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from tests.errors import command_refuses, is_about, refuses
from tests.fake_engine import FakeEngine
from vitq.cli import main
from vitq.config.search_path import ConfigPath
from vitq.errors import ConfigError
from vitq.launchers.slurm import commands
from vitq.launchers.slurm.driver import Driver
from vitq.launchers.slurm.launcher import Slurm
from vitq.launchers.slurm.packing import Array, pack
from vitq.planning import compose, planner
from vitq.planning.display import Show
from vitq.planning.estimate import History, Past, facts
from vitq.planning.plan import Plan, PlannedRun


def make(*words: str) -> Plan:
    file, roots = compose.root_config()
    return planner.make(
        compose.load(file, roots, ["tracker=none", "launcher=slurm", *words], multirun=True), name="test"
    )


@pytest.mark.parametrize(
    ("options", "key", "value", "valid"),
    [
        ({"partitions": "gpu"}, "partitions", "partitions", ["partition"]),
        ({"mem": "16"}, "mem", "16", []),
        ({"time": 0}, "time", 0, []),
        ({"extra": {"array": "0"}}, "extra", {"array": "0"}, []),
        ({"minutes_per_job": 0}, "minutes_per_job", 0, []),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], key: str, value: object, valid: list[str]) -> None:
    (problem,) = Slurm.check(options)
    assert is_about(problem, f"launcher.options.{key}", value, valid)


def test_they_are_found_when_the_sweep_is_planned(engine: FakeEngine) -> None:
    with refuses(ConfigError, key="launcher.options.time", value=0):
        make("launcher.options.time=0")
    assert Slurm.check(make().launcher.options) == []


@pytest.mark.parametrize(
    ("written", "minutes"),
    [
        (90, 90), ("90", 90), ("90:30", 91), ("0:30", 1), ("2:00:00", 120), ("2:00:01", 121), ("1-12", 2160),
        ("1-12:30", 2190), ("1-12:30:00", 2190), ("0-00:10:00", 10),
    ],
)  # fmt: skip
def test_times_as_sbatch_writes_them(written: object, minutes: int) -> None:
    assert Slurm({"time": written}).options.time == minutes


@pytest.mark.parametrize("written", ["", "2h", "1:2:3:4", "-1", "0:00", "1-", 0])
def test_what_is_no_time(written: object) -> None:
    (problem,) = Slurm.check({"time": written})
    assert is_about(problem, "launcher.options.time", written)


def test_a_time_on_the_command_line(engine: FakeEngine) -> None:
    assert make("launcher.options.time=2:00:00").launcher.options["time"] == "2:00:00"


@pytest.mark.parametrize(("written", "expected"), [("2:00:00", 120), ("90:30", 91), ("90", 90), ('"1-12"', 2160)])
def test_a_time_in_yaml_needs_no_quotes(engine: FakeEngine, tmp_path: Path, written: str, expected: int) -> None:
    """YAML 1.1 reads `2:00:00` as the number 7200, which sbatch would take for minutes."""
    (tmp_path / "conf" / "launcher").mkdir(parents=True)
    (tmp_path / "conf" / "launcher" / "night.yaml").write_text(f"defaults: [slurm]\noptions: {{time: {written}}}\n")
    (tmp_path / "conf" / "experiment").mkdir()
    text = f"# @package _global_\nlauncher: {{options: {{time: {written}, extra: {{begin: {written}}}}}}}\n"
    (tmp_path / "conf" / "experiment" / "long.yaml").write_text(text)
    file = tmp_path / "s.yaml"
    file.write_text(
        "defaults: [config, override /launcher: slurm, _self_]\nsweep: {name: s}\n"
        f"launcher: {{options: {{time: {written}}}}}\n"
    )
    axis = tmp_path / "axis.yaml"
    params = f"{{method: mse, launcher.options.time: {written}}}"
    axis.write_text(
        "defaults: [config, override /launcher: slurm, _self_]\nsweep: {name: axis}\n"
        f"hydra: {{mode: MULTIRUN, sweeper: {{params: {params}}}}}\n"
    )
    root = compose.root_config()

    def options(primary: Path, folders: ConfigPath, *words: str) -> dict[str, Any]:
        (config,) = compose.configs(compose.load(primary, folders, ["tracker=none", *words]))
        return config.launcher.options

    for found in (
        options(*root, "launcher=night"),
        options(*root, "launcher=slurm", "+experiment=long"),
        options(file, root[1]),
        options(axis, root[1]),
    ):
        assert Slurm(found).options.time == expected
    extra = options(*root, "launcher=slurm", "+experiment=long")["extra"]
    assert str(extra["begin"]) == yaml.load(written, yaml.BaseLoader)
    # A number of the command line is one of minutes, whatever the file says.
    assert Slurm(options(file, root[1], "launcher.options.time=7200")).options.time == 7200
    assert Slurm(options(axis, root[1], "launcher.options.time=7200")).options.time == 7200


@pytest.mark.parametrize("header", ["", "# @package _global_\n"])
def test_a_time_in_what_the_defaults_of_a_file_include(engine: FakeEngine, tmp_path: Path, header: str) -> None:
    """A base of launchers, a base of sweeps beside the sweep, a base of experiments: their times are texts, too."""
    section = "launcher: {options: {time: 2:00:00}}\n"
    files = {
        "conf/launcher/lab.yaml": header + (section if header else "options: {time: 2:00:00}\n"),
        "conf/launcher/night.yaml": "defaults: [slurm, lab]\noptions: {cpus: 2}\n",
        "conf/launcher/short.yaml": "defaults: [lab, slurm]\n",
        "conf/experiment/long.yaml": "# @package _global_\ndefaults: [/times/long]\n",
        "conf/times/long.yaml": "# @package _global_\n" + section,
        "sweeps/base.yaml": "defaults: [config, override /launcher: slurm, _self_]\n" + section,
        "sweeps/mine.yaml": "defaults: [base, _self_]\nsweep: {name: mine}\n",
        "sweeps/own.yaml": "defaults: [base, _self_]\nsweep: {name: own}\nlauncher: {options: {time: 7200}}\n",
        "elsewhere/launcher/far.yaml": "defaults: [slurm]\noptions: {time: 2:00:00}\n",
        "sweeps/far.yaml": f"defaults: [config, override /launcher: far, _self_]\nsweep: {{name: far}}\n"
        f"hydra: {{searchpath: ['file://{tmp_path}/elsewhere']}}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    root = compose.root_config()

    def minutes(file: Path, *words: str) -> int:
        (config,) = compose.configs(compose.load(file, root[1], ["tracker=none", *words]))
        return int(Slurm(config.launcher.options).options.time)

    assert minutes(root[0], "launcher=night") == 120
    assert minutes(root[0], "launcher=slurm", "+experiment=long") == 120
    assert minutes(tmp_path / "sweeps" / "mine.yaml") == 120
    assert minutes(tmp_path / "sweeps" / "far.yaml") == 120
    # What counts is the file that wins: a number there is one of minutes.
    assert minutes(root[0], "launcher=short") == 240
    assert minutes(tmp_path / "sweeps" / "own.yaml") == 7200
    assert minutes(tmp_path / "sweeps" / "mine.yaml", "launcher.options.time=7200") == 7200


def test_a_machine_without_slurm_says_so(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    words = ["run", "-m", "tracker=none", "launcher=slurm", "bits=w8a8,w4a4"]
    command_refuses(words, key="launcher", value="slurm", valid=["local"])
    assert engine.executed == []
    assert main(["run", "-m", "--dry-run", "tracker=none", "launcher=slurm", "bits=w8a8,w4a4"]) == 0


def test_jobs_hold_runs_of_one_model(engine: FakeEngine) -> None:
    planned = make("model=vit_digits,swin_digits", "bits=w8a8,w6a6,w4a4")
    options = Slurm({"runs_per_job": 2}).options
    jobs = list(pack(planned.runs, options, History([])))
    assert [len(job) for job in jobs] == [2, 1, 2, 1]
    assert all(len({run.config.model.name for run in job}) == 1 for job in jobs)


def test_jobs_hold_as_many_runs_as_experience_allows(engine: FakeEngine, tmp_path: Path) -> None:
    planned = make("bits=w8a8,w6a6,w4a4,w3a3", "method=minmax,mse")
    by_method = {"minmax": 120.0, "mse": 300.0}
    known = [Past(facts(run.config), by_method[run.config.method.name], 1) for run in planned.runs]
    options = Slurm({"minutes_per_job": 10}).options
    jobs = [[run.config.method.name for run in job] for job in pack(planned.runs, options, History(known))]
    minutes = [sum(by_method[name] for name in job) / 60 for job in jobs]
    assert max(minutes) <= 10
    assert minutes == [9, 7, 7, 5], "the next run would be too much each time"
    # Without experience each run has a job of its own; `runs_per_job` is a limit beside the minutes.
    assert [len(job) for job in pack(planned.runs, options, History([]))] == [1] * 8
    both = Slurm({"minutes_per_job": 10, "runs_per_job": 2}).options
    assert max(len(job) for job in pack(planned.runs, both, History(known))) == 2


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Unable to contact slurm controller (connect failure)", commands.UnreachableError),
        (
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            commands.JobLimitError,
        ),
        ("Invalid partition name specified", commands.SlurmError),
    ],
)
def test_refusals_are_told_apart(said: str, kind: type[commands.SlurmError]) -> None:
    error = commands._refusal(f"sbatch: error: Batch job submission failed: {said}")
    assert type(error) is kind
    assert "sbatch: error" not in str(error)


def test_halves_share_what_may_run_at_a_time() -> None:
    jobs: list[list[PlannedRun]] = [[], [], [], [], []]
    assert [(len(half.jobs), half.parallel) for half in Array(jobs, 5).halves()] == [(2, 3), (3, 2)]
    # One at a time: the second half has to wait until the first one has ended.
    assert [(len(half.jobs), half.parallel) for half in Array(jobs, 1).halves()] == [(2, 1), (3, 0)]


def test_a_full_cluster_is_asked_again_where_jobs_were_accepted(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs may all have ended, by the store, while SLURM still counts their jobs; a limit of none at all ends it."""
    places = 0

    def submit(options: Any, folder: Any, token: str, name: str, words: Any, jobs: int, parallel: int) -> str:
        nonlocal places
        if jobs > places:
            raise commands.JobLimitError("AssocMaxSubmitJobLimit")
        places -= jobs
        return "65"

    for name, answer in (("require", None), ("max_array", 1000), ("elements", [])):
        monkeypatch.setattr(commands, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(commands, "submit", submit)
    plan = make("method=minmax,mse", "bits=w8a8")
    driver = Driver(plan, Show(Console(), "test", len(plan.runs)), Slurm({}).options)
    with pytest.raises(commands.JobLimitError):
        driver.submit()
    places = 1
    driver.submit()
    assert [len(driver.waiting), len(driver._queued)] == [1, 1]
    driver._queued.clear()
    driver.submit()
    assert len(driver.waiting) == 1
    places = 1
    driver.submit()
    assert driver.waiting == []
