"""What a job of a SLURM array executes: its runs, each in a child process whose death takes no other run with it."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from vitq.errors import VitqError
from vitq.launchers.follow import ending
from vitq.launchers.slurm import commands
from vitq.store import Store, claim
from vitq.store.submissions import Submission

# How often a worker of one job may die before it begins a run.
_MOST_IDLE_DEATHS = 2


class Allocation:
    """One element of a submitted array."""

    def __init__(self, store: Store, submission: Submission, index: int):
        self.store, self.submission, self.index = store, submission, index
        self.tries = store.submissions.read_tries(submission.token, index)
        self.stop_signal: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._idle_deaths = 0

    def work(self) -> int:
        """Execute what has no result. Returns 0 when every run has ended or is executed by another process."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._on_signal)
        left = list(self.submission.allocations[self.index])
        while left := [name for name in left if not self.store.run(name).is_done()]:
            if self.stop_signal is not None:
                return self._stop(left)
            before = {name: self.store.run(name).attempt for name in left}
            code = self._run(left)
            left = [name for name in left if not self._settled(name, before[name])]
            if self.stop_signal is None and left:
                left = self._after(left, before, code)
        return 0

    def _run(self, names: Sequence[str]) -> int:
        group = ["--group", self.submission.sweep] if self.submission.sweep else []
        command = [*self.submission.command, "--runs-dir", str(self.store.root), "--take-over", *group, *names]
        self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=_threads() | os.environ)
        if self.stop_signal is not None:  # the signal came while the child was being made
            self._child.terminate()
        return self._child.wait()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop_signal is None:
            self.stop_signal = number
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def _after(self, left: list[str], before: dict[str, int], code: int) -> list[str]:
        """What is still to do after a worker has ended by itself and left something undone."""
        begun = next((name for name in left if self._has_died_at(name, before[name])), None)
        if begun is not None:
            deaths = self.tries.deaths.get(begun, 0) + 1
            self._record_tries(deaths=self.tries.deaths | {begun: deaths})
            if deaths <= self.submission.max_retries:
                return left
            self._fail(begun, f"its process {ending(code)}")
            return [name for name in left if name != begun]
        if code in (0, 1):  # the others are executed by living processes
            return []
        self._idle_deaths += 1
        if self._idle_deaths >= _MOST_IDLE_DEATHS:
            raise VitqError(f"the worker ended with exit code {code} before it began a run")
        return left

    def _has_died_at(self, name: str, before: int) -> bool:
        """Whether our worker had begun a run. Another process that has begun it since is alive and holds its claim."""
        run_dir = self.store.run(name)
        return run_dir.attempt > before and not claim.is_held(run_dir)

    def _stop(self, left: list[str]) -> int:
        """SLURM wants the node back. Before the time limit the job is queued again; otherwise SLURM does that."""
        assert self.stop_signal is not None
        if self.stop_signal != signal.SIGUSR2:
            return 128 + self.stop_signal
        timeouts = self.tries.timeouts + 1
        self._record_tries(timeouts=timeouts)
        if timeouts > self.submission.max_timeouts:
            action = "raise launcher.options.time, or launcher.options.max_timeouts where each gets further"
            for name in left:
                self._fail(name, f"the time limit ended its job {timeouts} times; {action}", timed_out=True)
            return 1
        print(f"queued again before the time limit, for the {timeouts}. time", flush=True)
        commands.requeue()
        return 0

    def _record_tries(self, **changes: Any) -> None:
        self.tries = self.tries.model_copy(update=changes)
        self.store.submissions.write_tries(self.submission.token, self.index, self.tries)

    def _settled(self, name: str, before: int) -> bool:
        run_dir = self.store.run(name)
        return run_dir.failure_after(before) is not None or run_dir.is_done()

    def _fail(self, name: str, reason: str, timed_out: bool = False) -> None:
        log = self.store.submissions.log_path(self.submission.token, self.index)
        # Also over an earlier failure: that this job ended it is what `vitq retry --timeout` asks for.
        self.store.run(name).fail(f"{reason}; see {log}", timed_out=timed_out, overwrite=True)


def _threads() -> dict[str, str]:
    """As many threads as the job has cores: not every cluster keeps a job from seeing the whole node."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
    return {"OMP_NUM_THREADS": cores, "MKL_NUM_THREADS": cores} if cores else {}


def main(argv: Sequence[str] | None = None) -> int:
    """Execute the element that SLURM_ARRAY_TASK_ID names."""
    parser = argparse.ArgumentParser(prog="python -m vitq.launchers.slurm.job", description=__doc__)
    parser.add_argument("--runs-dir", required=True)
    parser.add_argument("--token", required=True, help="name of the submission")
    args = parser.parse_args(argv)
    store = Store(args.runs_dir)
    submission = store.submissions.read(args.token)
    if submission is None:
        raise VitqError(f"no submission {args.token} in {store.submissions.path}; was the folder moved?")
    index = int(os.environ["SLURM_ARRAY_TASK_ID"])
    facts = [os.environ.get(name, "?") for name in ("SLURM_JOB_ID", "SLURMD_NODENAME", "SLURM_RESTART_COUNT")]
    print("job {} on {}, restarts {}".format(*facts), flush=True)
    try:
        return Allocation(store, submission, index).work()
    except VitqError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
