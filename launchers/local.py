"""This machine: one slot for each visible GPU, or several on CPU, each with a worker process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from dataclasses import field
from multiprocessing import connection
from typing import IO, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.errors import ConfigError, StoreError, VitqError
from vitq.launchers.base import LAUNCHERS
from vitq.launchers.options import OptionsOf
from vitq.launchers.watched import Follower
from vitq.plan import Plan, PlannedRun
from vitq.progress import Progress
from vitq.result import Result, Status
from vitq.show import Show
from vitq.store import RunDir, claim

# Longest wait for a worker, in seconds, and how often a run under way is looked at.
_LOOK = 0.1
_WATCH = 0.5
# Seconds that a worker gets to end after it was told to.
_GRACE = 10.0


@dataclass(frozen=True, config=RULES)
class Options:
    """`launcher.options`.

    slots: workers at a time; None: one for each visible GPU, on CPU one for each two cores. threads: of each worker;
    None: the cores divided by the slots. runs_per_process: so many runs follow each other in one process, which loads
    its libraries once. max_retries: how often a run whose process died is tried again; one that raised an error is
    not. command: what starts a worker; `--runs-dir DIR [--group NAME] --feed FD` is appended.
    """

    slots: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    runs_per_process: Annotated[int, Field(ge=1)] = 64
    max_retries: Annotated[int, Field(ge=0)] = 1
    command: tuple[str, ...] = field(default_factory=lambda: (sys.executable, "-m", "vitq.job"))


_OPTIONS = OptionsOf(Options)
check, parse = _OPTIONS.check, _OPTIONS.parse


@LAUNCHERS.register("local")
def launch(plan: Plan, show: Show) -> list[str]:
    """See Launcher. A worker that dies takes its own run with it and no other; a new one takes its place."""
    problems = check(plan.launcher.options)
    if problems:
        raise ConfigError(problems)
    queue = Queue(plan, show, parse(plan.launcher.options))
    try:
        queue.work()
    finally:
        queue.stop()
    return queue.failed


class Queue:
    """Runs that wait, and the slots that take them one by one."""

    def __init__(self, plan: Plan, show: Show, options: Options):
        self.plan, self.show, self.options = plan, show, options
        self.failed: list[str] = []
        self._waiting: deque[PlannedRun] = deque()
        self._deaths: dict[str, int] = {}
        # Runs of one model side by side, so that what a process holds of it (caches, compiled blocks) serves them all.
        models = list(dict.fromkeys(run.config.model.name for run in plan.runs))
        for run in sorted(plan.runs, key=lambda run: models.index(run.config.model.name)):
            if plan.store.run(run.signature).is_done():
                show.skipped(run)
                claim.bury(plan.store.run(run.signature))
            else:
                self._waiting.append(run)
        self._places = places(options)
        self._slots: dict[int, Worker] = {}
        self._ending: list[Worker] = []

    def work(self) -> None:
        """Until every run has ended."""
        while self._waiting or any(worker.run is not None for worker in self._slots.values()):
            for number in range(len(self._places)):
                worker = self._slots.get(number)
                if (worker is None or worker.run is None) and (run := self._take()) is not None:
                    self._give(number, run)
            connection.wait([worker.answers.fileno() for worker in self._slots.values()], _LOOK)
            for number, worker in list(self._slots.items()):
                if worker.look():
                    del self._slots[number]
            self._ending = [worker for worker in self._ending if not worker.ended()]

    def stop(self) -> None:
        """End what still runs: its state is kept, and the next start goes on from there."""
        for worker in [*self._slots.values(), *self._ending]:
            worker.stop()

    def died(self, run: PlannedRun, reason: str) -> None:
        """A run's process has died before the run ended."""
        self._deaths[run.signature] = self._deaths.get(run.signature, 0) + 1
        if self._deaths[run.signature] <= self.options.max_retries:
            self._waiting.append(run)
        else:
            self.fail(run, reason)

    def later(self, run: PlannedRun) -> None:
        """Another process executes this run; whether it ends there is looked at again."""
        self._waiting.append(run)

    def fail(self, run: PlannedRun, reason: str) -> None:
        """A run has ended without a result."""
        run_dir = self.plan.store.run(run.signature)
        status = run_dir.status_hint()
        if status is None or status.state != "failed":
            attempt, stage = (status.attempt, status.stage) if status else (1, "")
            run_dir.write_status(
                Status(state="failed", attempt=attempt, stage=stage, error=reason, host=socket.gethostname())
            )
        self.show.failed(run, VitqError(reason))
        self.failed.append(run.signature)

    def _take(self) -> PlannedRun | None:
        """The next run that nobody else is at; those of others go to the end."""
        for _ in range(len(self._waiting)):
            run = self._waiting.popleft()
            run_dir = self.plan.store.run(run.signature)
            holder = claim.read(run_dir)
            if run_dir.is_done():
                self.show.skipped(run)
            elif holder is not None and not claim.is_dead(holder, run_dir.claim_path):
                self._waiting.append(run)
            else:
                return run
        return None

    def _give(self, number: int, run: PlannedRun) -> None:
        worker = self._slots.get(number)
        if worker is not None and worker.given >= self.options.runs_per_process:
            worker.close()
            self._ending.append(worker)
            worker = None
        if worker is None:
            worker = self._slots[number] = Worker(self, self._places[number])
        worker.give(run)


class Worker:
    """A process that executes one run after another: signatures go in, a line comes back when one has ended.

    Whether a run is done is read from the store, never from that line.
    """

    def __init__(self, queue: Queue, environment: dict[str, str]):
        self._queue = queue
        self.run: PlannedRun | None = None
        self.given = 0
        plan = queue.plan
        group = ["--group", plan.name] if plan.name else []
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self.answers: IO[bytes] = os.fdopen(reading, "rb", buffering=0)
        self._process = subprocess.Popen(
            [*queue.options.command, "--runs-dir", str(plan.store.root), *group, "--feed", str(writing)],
            env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._errors,
            pass_fds=[writing],
            start_new_session=True,  # Ctrl-C reaches the driver alone, which then ends the workers
        )  # fmt: skip
        os.close(writing)
        self._progress: Progress | None = None
        self._heard = b""
        self._attempt, self._said, self._looked = 0, 0, 0.0
        self._follower = Follower()

    def give(self, run: PlannedRun) -> None:
        """The next run; the one before has ended."""
        self.run, self.given = run, self.given + 1
        self._progress, self._follower = None, Follower()
        self._attempt = self._attempts()
        self._said = self._errors.seek(0, os.SEEK_END)
        # A process that is gone already is found by look().
        with suppress(BrokenPipeError):
            self._input.write(f"{run.signature}\n".encode())
            self._input.flush()

    def look(self) -> bool:
        """Show what has moved. True when the process has ended and its run is accounted for."""
        heard = self.answers.read()
        if heard == b"":
            self._process.wait()
            if self.run is not None and not self._settle():
                self._queue.died(self.run, self._reason())
            self.run = None
            self._release()
            return True
        *lines, self._heard = (self._heard + (heard or b"")).split(b"\n")
        if lines and self.run is not None:
            _, word, *reason = lines[-1].decode(errors="replace").split(" ", 2)
            if word == "busy":
                self._queue.later(self.run)
            elif not self._settle():
                self._queue.fail(
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
        run_dir = self._queue.plan.store.run(self.run.signature)
        if (result := _result(run_dir)) is not None:
            self._begin()
            self._queue.show.finished(self.run, result)
            return True
        status = run_dir.status_hint()
        if status and status.state == "failed" and status.attempt > self._attempt:
            self._begin()
            self._queue.fail(self.run, status.error or "no reason was recorded")
            return True
        return False

    def _watch(self) -> None:
        assert self.run is not None
        self._looked = time.monotonic()
        status = self._queue.plan.store.run(self.run.signature).status_hint()
        if status is None or status.state != "running" or status.attempt <= self._attempt:
            return
        self._follower.follow(status, self._begin())

    def _begin(self) -> Progress:
        assert self.run is not None
        if self._progress is None:
            self._progress = self._queue.show.running(self.run)
        return self._progress

    def _attempts(self) -> int:
        assert self.run is not None
        status = self._queue.plan.store.run(self.run.signature).status_hint()
        return status.attempt if status is not None and status.state != "planned" else 0

    def _reason(self) -> str:
        code = self._process.returncode
        self._errors.seek(self._said)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else ""
        if code >= 0:
            return f"the worker ended with exit code {code} before this run had a result{said}"
        name = signal.Signals(-code).name
        memory = "; the kernel ends processes so when memory runs out" if name == "SIGKILL" else ""
        return f"the worker was ended by {name}{memory}{said}"


def _result(run_dir: RunDir) -> Result | None:
    try:
        return run_dir.read_result()
    except StoreError:
        return None


def places(options: Options) -> list[dict[str, str]]:
    """The environment of each slot: its device and its share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    devices = visible_gpus()
    slots = options.slots or len(devices) or max(1, cores // 2)
    threads = str(options.threads or max(1, cores // slots))
    shared = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return [
        shared | ({"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if devices else {})
        for number in range(slots)
    ]


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, out of its own CUDA_VISIBLE_DEVICES; torch is not imported."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip() and name.strip() != "-1"]
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number, line in enumerate(found.splitlines()) if line.startswith("GPU ")]
