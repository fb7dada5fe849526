"""This machine: one slot for each visible GPU, or several on CPU, each with a worker process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import deque
from dataclasses import field
from multiprocessing import connection
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.errors import ConfigError, VitqError
from vitq.launchers.base import LAUNCHERS
from vitq.launchers.options import OptionsOf
from vitq.launchers.worker import Worker
from vitq.plan import Plan, PlannedRun
from vitq.result import Status
from vitq.show import Show
from vitq.store import claim

# Longest wait for a worker, in seconds.
_LOOK = 0.1


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
