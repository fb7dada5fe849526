"""A study that is stopped, damaged or shared by processes: it goes on, and no run is computed twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.errors import refuses
from tests.tuning.conftest import TunedEngine, run, tuning
from vitq.config import RunConfig
from vitq.errors import VitqError
from vitq.store import Store
from vitq.store.studies import journal_path, read_study


def test_a_killed_study_goes_on_as_if_it_had_not_been(
    tuned: TunedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tuning(), trials=13)
    executed = list(tuned.executed)
    (tmp_path / "again").mkdir()
    monkeypatch.chdir(tmp_path / "again")

    def stop(config: RunConfig) -> None:
        if len(tuned.executed) - len(executed) in (5, 11):
            raise KeyboardInterrupt

    tuned.fail = stop
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tuning(), trials=13)
    record = run(tuning(), trials=13)
    assert [trial.model_dump() for trial in record.trials] == [trial.model_dump() for trial in whole.trials]
    # The two that were stopped are executed twice, all others once.
    assert len(tuned.executed) - len(executed) == 13 + 2


def test_a_damaged_journal_costs_no_run(tuned: TunedEngine) -> None:
    whole = run(tuning(), trials=12)
    journal = journal_path(Store("runs"), whole.name)
    journal.write_text(journal.read_text()[:-40] + "\n")
    with refuses(VitqError, "", journal):
        run(tuning(), trials=12)
    journal.unlink()
    assert [t.model_dump() for t in run(tuning(), trials=12).trials] == [t.model_dump() for t in whole.trials]
    assert len(tuned.executed) == 12


@pytest.mark.parametrize(
    "words", [("calib.size=64",), ("~method.tune", "+method.tune={steps.learn.drop: {low: 0.0, high: 0.9}}")]
)
def test_another_config_is_another_study(tuned: TunedEngine, words: tuple[str, ...]) -> None:
    run(tuning(), trials=1)
    with refuses(VitqError, "--name", "tune_qdrop_vit_digits_w3a3"):
        run(tuning(*words), trials=2)
    assert len(run(tuning(*words, name="other"), trials=2).trials) == 2
    # What changes no result is no other config.
    assert len(run(tuning("device=cpu"), trials=2).trials) == 2


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {repo!r})
import tests.tuning.conftest as c
from vitq.planning import engine

def stop(config):
    if len(engine.ENGINE.executed) == 4:
        Path("there").touch()
        time.sleep(300)

engine.ENGINE = c.TunedEngine(fail=stop)
c.run(c.tuning(), trials=7)
"""


def test_sigkill_loses_no_trial(
    tuned: TunedEngine, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "worker.py"
    script.write_text(KILLED.format(repo=str(repo)))
    worker = subprocess.Popen([sys.executable, script])
    while not Path("there").exists():
        assert worker.poll() is None
        time.sleep(0.1)
    worker.kill()
    assert worker.wait() == -signal.SIGKILL
    left = read_study(Store("runs"), "tune_qdrop_vit_digits_w3a3")
    assert left is not None
    assert [trial.state for trial in left.trials] == ["done"] * 3, "of the fourth nothing is known"
    record = run(tuning(), trials=7)
    assert record.trials[:3] == left.trials
    assert len(tuned.executed) == 4, "the one that was under way, and three more"
    # What is asked for is what an undisturbed study asks for.
    (tmp_path / "undisturbed").mkdir()
    monkeypatch.chdir(tmp_path / "undisturbed")
    assert [trial.options for trial in run(tuning(), trials=7).trials] == [trial.options for trial in record.trials]


SHARED = """
import io, sys, time
from rich.console import Console
sys.path.insert(0, {repo!r})
import tests.tuning.conftest as c
from vitq.planning import engine
engine.ENGINE = c.TunedEngine(fail=lambda config: time.sleep(0.3))
record = c.run(c.tuning(), trials=6)
print(*engine.ENGINE.executed)
"""


def test_two_processes_share_a_study(tuned: TunedEngine, repo: Path, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(SHARED.format(repo=str(repo)))
    workers = [subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    executed = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    record = read_study(Store("runs"), "tune_qdrop_vit_digits_w3a3")
    assert record is not None
    assert len(record.trials) == len(record.finished) == 6
    assert sorted([*executed[0], *executed[1]]) == sorted(str(trial.signature) for trial in record.trials)
    assert all(executed), "both had a part in it"
    assert not list(Path("runs/sweeps", record.name, "drivers").iterdir())
    listed = Store("runs").read_sweep(record.name).signatures
    assert {trial.signature for trial in record.trials} == {*listed}
