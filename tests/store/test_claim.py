"""Claims with real processes: one winner, dead owners succeeded once, living ones left alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.errors import refuses
from tests.report.conftest import config, correct, finish
from vitq import signals
from vitq.errors import VitqError
from vitq.planning.resume import stored_plan
from vitq.store import RunDir, Store, SweepRecord, claim
from vitq.store.atomic import host_id
from vitq.store.claim import Claim

# Takes a claim as soon as a file appears, says whether it got it, and holds it until it is killed or told to go.
TAKER = """
import sys, time
from pathlib import Path
from vitq.store import RunDir
from vitq.store.claim import Claim
run, go = RunDir(Path(sys.argv[1])), Path(sys.argv[2])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
held = Claim.take(run)
print("took" if held else "left", flush=True)
if held:
    sys.stdin.readline()
    held.release()
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    folder = tmp_path / "a store with 'quotes' and spaces" / "0123456789abcdef"
    folder.mkdir(parents=True)
    return RunDir(folder)


def takers(run: RunDir, go: Path, count: int) -> list[subprocess.Popen[str]]:
    command = [sys.executable, "-c", TAKER, str(run.path), str(go)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return started


def answers(processes: list[subprocess.Popen[str]]) -> list[str]:
    return [process.stdout.readline().strip() for process in processes if process.stdout is not None]


def end(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.communicate("\n", timeout=30)


def test_of_many_one_gets_it_and_nothing_is_left_behind(run: RunDir, tmp_path: Path) -> None:
    processes = takers(run, tmp_path / "go", 6)
    (tmp_path / "go").touch()
    assert sorted(answers(processes)) == ["left"] * 5 + ["took"]
    holder = claim.read(run)
    assert holder is not None
    assert holder.pid in {process.pid for process in processes}
    assert Claim.take(run) is None
    end(processes)
    assert list(run.path.iterdir()) == []


def test_a_killed_owner_is_succeeded_by_exactly_one(run: RunDir, tmp_path: Path) -> None:
    for round_ in range(3):
        (owner,) = takers(run, tmp_path / f"first{round_}", 1)
        waiting = takers(run, tmp_path / f"then{round_}", 5)
        (tmp_path / f"first{round_}").touch()
        assert answers([owner]) == ["took"]
        owner.kill()
        owner.wait()
        (tmp_path / f"then{round_}").touch()
        assert sorted(answers(waiting)) == ["left"] * 4 + ["took"]
        end(waiting)
        assert list(run.path.iterdir()) == []


def test_a_zombie_is_dead_and_a_stopped_process_is_not(run: RunDir, tmp_path: Path) -> None:
    (owner,) = takers(run, tmp_path / "go", 1)
    (tmp_path / "go").touch()
    assert answers([owner]) == ["took"]
    owner.send_signal(signal.SIGSTOP)
    assert Claim.take(run) is None
    owner.send_signal(signal.SIGCONT)
    owner.kill()
    deadline = time.monotonic() + 30  # not waited for, so it stays a zombie
    while (held := Claim.take(run)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    held.release()
    owner.wait()


def test_a_successor_that_died_is_succeeded_in_turn(run: RunDir) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    first = claim.this_process().model_copy(update={"pid": gone.pid, "token": "first"})
    second = first.model_copy(update={"token": "second"})
    run.claim_path.write_text(first.to_json())
    (run.path / "claim.first.successor").write_text(second.to_json())
    held = Claim.take(run)
    assert held is not None
    assert claim.read(run) == held.owner
    held.release()
    assert list(run.path.iterdir()) == []


def test_who_died_right_after_the_result_is_cleaned_up_by_the_next_retry(tmp_path: Path) -> None:
    """Its run is not planned again: nobody else would come by."""
    store = Store(tmp_path / "runs")
    run = store.run(finish(store, config("a"), correct(1)))
    store.write_sweep(SweepRecord(name="one", signatures=[run.signature]))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run.claim_path.write_text(claim.this_process().model_copy(update={"pid": gone.pid}).to_json())
    run.state_dir.mkdir()
    (run.path / f".status.json.{host_id()}.{gone.pid}.3.tmp").write_text("{")
    with refuses(VitqError, key="sweep", value="one"):
        stored_plan(store, "one")
    assert not run.state_dir.exists()
    assert not list(run.path.glob("claim*"))
    assert not list(run.path.glob(".*"))
    assert run.is_done()


def test_who_died_while_taking_a_finished_run_leaves_nothing(run: RunDir) -> None:
    """It never held the claim: half a claim file, or a succession that nobody claims any more, is all there is."""
    run.path.mkdir(parents=True, exist_ok=True)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (run.path / f".claim.{host_id()}.{gone.pid}.0.tmp").write_text("{")
    claim.remove_leftovers(run)
    assert list(run.path.iterdir()) == []
    late = claim.this_process().model_copy(update={"pid": gone.pid, "token": "late"})
    (run.path / "claim.dead.successor").write_text(late.to_json())
    claim.remove_leftovers(run)
    assert list(run.path.iterdir()) == []
    run.path.rmdir()
    claim.remove_leftovers(run)
    assert not run.path.exists()


def test_setting_the_clock_kills_no_owner(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of the boot is the clock's time minus the time since: a step of the clock moves it."""
    (owner,) = takers(run, tmp_path / "go", 1)
    (tmp_path / "go").touch()
    assert answers([owner]) == ["took"]
    booted = psutil.boot_time()
    for place in ("psutil.boot_time", "psutil._psplatform.boot_time"):
        monkeypatch.setattr(place, lambda: booted + 1)
    assert psutil.Process(owner.pid).create_time() > time.time() - 60  # the step is seen
    assert Claim.take(run) is None
    owner.kill()
    owner.wait()
    held = Claim.take(run)
    assert held is not None
    held.release()


def test_an_answer_that_nfs_lost_is_no_defeat(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link was made, and the repeated request is told that it exists: the claim is ours."""
    link = os.link

    def repeated(source: Path, target: Path) -> None:
        with suppress(FileExistsError):
            link(source, target)
        raise FileExistsError(17, "File exists", str(target))

    monkeypatch.setattr(os, "link", repeated)
    held = Claim.take(run)
    assert held is not None
    assert Claim.take(run) is None
    held.release()
    assert list(run.path.iterdir()) == []


def test_who_was_asleep_for_a_whole_succession_overwrites_nobody(run: RunDir) -> None:
    """Between our look at the dead owner and our attempt, one successor came and went, and a third one has the run."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = claim.this_process().model_copy(update={"pid": gone.pid, "token": "dead"})
    run.claim_path.write_text(dead.to_json())
    first = Claim.take(run)
    assert first is not None
    first.release()
    third = Claim.take(run)
    assert third is not None
    assert not claim._succeed(run, dead, claim.this_process())
    assert claim.read(run) == third.owner
    third.release()
    assert list(run.path.iterdir()) == []


def test_another_machine_is_dead_when_it_is_silent_by_our_clock(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "SILENCE", 0.2)
    monkeypatch.setattr(claim, "_watch", claim.Watch())
    owner = claim.this_process().model_copy(update={"host": "elsewhere-1"})
    run.claim_path.write_text(owner.to_json())
    os.utime(run.claim_path, (1, 1))  # a clock that is decades behind says nothing
    assert Claim.take(run) is None
    for beat in range(4):
        time.sleep(0.1)
        os.utime(run.claim_path, (2 + beat, 2 + beat))  # it beats
        assert Claim.take(run) is None
    time.sleep(0.25)
    held = Claim.take(run)
    assert held is not None
    held.release()


def test_an_earlier_boot_of_this_machine_is_dead(run: RunDir) -> None:
    run.claim_path.write_text(claim.this_process().model_copy(update={"boot": "before"}).to_json())
    held = Claim.take(run)
    assert held is not None
    held.release()


def test_the_claim_beats(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "BEAT", 0.02)
    with Claim.take(run) as held:  # type: ignore[union-attr]
        before = run.claim_path.stat().st_mtime_ns
        deadline = time.monotonic() + 30
        while run.claim_path.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert claim.read(run) == held.owner


def test_what_is_not_ours_is_not_released(run: RunDir) -> None:
    held = Claim.take(run)
    assert held is not None
    other = held.owner.model_copy(update={"token": "other"})
    run.claim_path.write_text(other.to_json())
    held.release()
    assert claim.read(run) == other


def test_signals_to_stop_are_the_main_threads(run: RunDir) -> None:
    """One that the beating thread takes would not wake the main thread from a sleep."""
    claim = Claim.take(run)
    assert claim is not None
    with claim:
        status = Path(f"/proc/self/task/{claim._beating.native_id}/status").read_text()
        blocked = int(re.search(r"SigBlk:\s*(\w+)", status)[1], 16)  # type: ignore[index]
    assert all(blocked >> (number - 1) & 1 for number in signals.STOPPING)
    assert signals.STOPPING[0] not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
