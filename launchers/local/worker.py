"""A worker process of a slot on this machine, as its driver sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from typing import IO, Protocol

from vitq.errors import StoreError
from vitq.launchers.follow import Follower
from vitq.launchers.local.slots import LocalOptions
from vitq.planning.background import same_imports
from vitq.planning.display import Show
from vitq.planning.plan import Plan, PlannedRun
from vitq.progress import Progress
from vitq.store import RunDir
from vitq.store.records import Result


class Dispatcher(Protocol):
    """What gives a worker its runs, and is called when they have ended."""

    plan: Plan
    show: Show
    options: LocalOptions

    def died(self, run: PlannedRun, reason: str) -> None:
        """A run's process has died before the run ended."""

    def cancelled(self, run: PlannedRun) -> None:
        """A run was told to stop, and nothing else."""

    def later(self, run: PlannedRun) -> None:
        """Another process executes this run."""

    def fail(self, run: PlannedRun, reason: str) -> None:
        """A run has ended without a result."""


# How often a run under way is looked at, in seconds.
_WATCH = 0.5
# Seconds that a worker has to end after SIGTERM.
_GRACE = 10.0


class Worker:
    """A process that executes one run after another: signatures go in, a line comes back when one has ended.

    Whether a run is done is read from the store, never from that line.
    """

    def __init__(self, dispatcher: Dispatcher, environment: dict[str, str]):
        self._dispatcher = dispatcher
        self.run: PlannedRun | None = None
        self.given = 0
        plan = dispatcher.plan
        group = ["--group", plan.name] if plan.name else []
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self.answers: IO[bytes] = os.fdopen(reading, "rb", buffering=0)
        self._process = subprocess.Popen(
            [*dispatcher.options.command, "--runs-dir", str(plan.store.root), *group, "--feed", str(writing)],
            env=os.environ | same_imports() | environment, pass_fds=[writing],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._errors,
            start_new_session=True,  # Ctrl-C reaches the driver alone, which then ends the workers
        )  # fmt: skip
        os.close(writing)
        self._progress: Progress | None = None
        self._unread = b""
        self._attempt, self._stderr_start, self._looked = 0, 0, 0.0
        self._follower = Follower()

    def give(self, run: PlannedRun) -> None:
        """The next run; the one before has ended."""
        self.run, self.given = run, self.given + 1
        self._progress, self._follower = None, Follower()
        self._attempt = self._dispatcher.plan.store.run(run.signature).attempt
        self._stderr_start = self._errors.seek(0, os.SEEK_END)
        # look() notices a process that has ended already.
        with suppress(BrokenPipeError):
            self._input.write(f"{run.signature}\n".encode())
            self._input.flush()

    def look(self) -> bool:
        """Show what has moved. True when the process has ended and its run is accounted for."""
        answer = self.answers.read()
        if answer == b"":
            self._process.wait()
            if self.run is not None and not self._settle():
                if self._process.returncode == 128 + signal.SIGINT:  # Ctrl-C does not reach it; somebody meant this run
                    self._dispatcher.cancelled(self.run)
                else:
                    self._dispatcher.died(self.run, self._reason())
            self.run = None
            self._release()
            return True
        *lines, self._unread = (self._unread + (answer or b"")).split(b"\n")
        if lines and self.run is not None:
            _, word, *reason = lines[-1].decode(errors="replace").split(" ", 2)
            if word == "busy":
                self._dispatcher.later(self.run)
            elif not self._settle():
                self._dispatcher.fail(
                    self.run, reason[0] if reason else "the worker says it is done, but no valid result is stored"
                )
            self.run = None
        elif self.run is not None and time.monotonic() - self._looked > _WATCH:
            self._watch()
        return False

    def close(self) -> None:
        """Nothing more is given: the process ends by itself."""
        with suppress(BrokenPipeError):
            self._input.close()

    def ended(self) -> bool:
        """Whether a closed one is gone."""
        if self._process.poll() is None:
            return False
        self._release()
        return True

    def stop(self) -> None:
        """End the process: by itself where it is idle, else by SIGTERM, at last by SIGKILL."""
        self.close()
        if self._process.poll() is None:
            if self.run is not None:
                os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._release()

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _release(self) -> None:
        self.close()
        self.answers.close()
        self._errors.close()

    def _settle(self) -> bool:
        """Whether the run has ended; shows how."""
        assert self.run is not None
        run_dir = self._dispatcher.plan.store.run(self.run.signature)
        if (result := _result(run_dir)) is not None:
            self._begin()
            self._dispatcher.show.finished(self.run, result)
            return True
        if (failure := run_dir.failure_after(self._attempt)) is not None:
            self._begin()
            self._dispatcher.fail(self.run, failure.error or "no reason was recorded")
            return True
        return False

    def _watch(self) -> None:
        assert self.run is not None
        self._looked = time.monotonic()
        status = self._dispatcher.plan.store.run(self.run.signature).status_hint()
        if status is None or status.state != "running" or status.attempt <= self._attempt:
            return
        self._follower.follow(status, self._begin())

    def _begin(self) -> Progress:
        assert self.run is not None
        if self._progress is None:
            self._progress = self._dispatcher.show.running(self.run)
        return self._progress

    def _reason(self) -> str:
        code = self._process.returncode
        self._errors.seek(self._stderr_start)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        if code >= 0:
            return f"the worker ended with exit code {code} before this run had a result{last}"
        name = signal.Signals(-code).name
        memory = "; the kernel ends processes so when memory runs out" if name == "SIGKILL" else ""
        return f"the worker was ended by {name}{memory}{last}"


def _result(run_dir: RunDir) -> Result | None:
    try:
        return run_dir.read_result()
    except StoreError:
        return None
