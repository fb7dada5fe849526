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
from collections.abc import Mapping
from dataclasses import field
from typing import IO, Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.errors import ConfigError, VitqError
from vitq.launchers.base import LAUNCHERS
from vitq.plan import Plan, PlannedRun
from vitq.progress import Progress
from vitq.result import Status
from vitq.show import Show
from vitq.store import RunDir, claim

# Seconds between two looks at the workers.
_LOOK = 0.1
# Seconds that a worker gets to end after it was told to.
_GRACE = 10.0


@dataclass(frozen=True, config=RULES)
class Options:
    """`launcher.options`.

    slots: workers at a time; None: one for each visible GPU, on CPU one for each two cores. threads: of each worker;
    None: the cores divided by the slots. runs_per_process: so many runs of one model follow each other in one process.
    max_retries: how often a run whose process died is tried again; one that raised an error is not. command: what
    starts a worker; `--runs-dir DIR [--group NAME] SIGNATURE…` is appended.
    """

    slots: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    runs_per_process: Annotated[int, Field(ge=1)] = 8
    max_retries: Annotated[int, Field(ge=0)] = 1
    command: tuple[str, ...] = field(default_factory=lambda: (sys.executable, "-m", "vitq.job"))


_ADAPTER: TypeAdapter[Options] = TypeAdapter(Options)


def check(options: Mapping[str, Any]) -> list[str]:
    """Problems of `launcher.options`."""
    try:
        _ADAPTER.validate_python(dict(options))
    except ValidationError as error:
        return [
            f"launcher.options.{'.'.join(map(str, e['loc']))}: "
            + ("unknown key" if e["type"] == "unexpected_keyword_argument" else e["msg"])
            for e in error.errors(include_url=False)
        ]
    return []


@LAUNCHERS.register("local")
def launch(plan: Plan, show: Show) -> list[str]:
    """See Launcher. A worker that dies takes its own run with it and no other; the rest of its runs start anew."""
    problems = check(plan.launcher.options)
    if problems:
        raise ConfigError(problems)
    queue = Queue(plan, show, _ADAPTER.validate_python(dict(plan.launcher.options)))
    try:
        queue.work()
    finally:
        queue.stop()
    return queue.failed


class Queue:
    """Runs that wait, and the slots that take them."""

    def __init__(self, plan: Plan, show: Show, options: Options):
        self.plan, self.show, self.options = plan, show, options
        self.failed: list[str] = []
        self._waiting: deque[PlannedRun] = deque()
        self._deaths: dict[str, int] = {}
        # Runs of one model side by side, so that a worker loads it once.
        models = list(dict.fromkeys(run.config.model.name for run in plan.runs))
        for run in sorted(plan.runs, key=lambda run: models.index(run.config.model.name)):
            if plan.store.run(run.signature).is_done():
                show.skipped(run)
            else:
                self._waiting.append(run)
        self._places = places(options)
        self._slots: dict[int, Worker] = {}

    def work(self) -> None:
        """Until every run has ended."""
        while self._waiting or self._slots:
            for number in range(len(self._places)):
                if number not in self._slots and self._waiting and (runs := self._take()):
                    self._slots[number] = Worker(self, runs, self._places[number])
            for number, worker in list(self._slots.items()):
                if worker.look():
                    del self._slots[number]
            time.sleep(_LOOK)

    def stop(self) -> None:
        """End what still runs: its state is kept, and the next start goes on from there."""
        for worker in self._slots.values():
            worker.stop()

    def again(self, run: PlannedRun, reason: str | None) -> None:
        """A run has not ended: it was not reached (reason None), or its process died."""
        run_dir = self.plan.store.run(run.signature)
        deaths = self._deaths.get(run.signature, 0) + (reason is not None)
        self._deaths[run.signature] = deaths
        if reason is None or deaths <= self.options.max_retries:
            self._waiting.append(run)
            return
        self.fail(run, run_dir, reason)

    def fail(self, run: PlannedRun, run_dir: RunDir, reason: str) -> None:
        """A run has ended without a result."""
        status = run_dir.status_hint()
        if status is None or status.state != "failed":
            attempt = status.attempt if status else 1
            run_dir.write_status(Status(state="failed", attempt=attempt, error=reason, host=socket.gethostname()))
        self.show.failed(run, VitqError(reason))
        self.failed.append(run.signature)

    def _take(self) -> list[PlannedRun]:
        """The next runs of one model that nobody else is at; those of others go to the end."""
        chosen: list[PlannedRun] = []
        for _ in range(len(self._waiting)):
            run = self._waiting.popleft()
            run_dir = self.plan.store.run(run.signature)
            holder = claim.read(run_dir)
            if run_dir.is_done():
                self.show.skipped(run)
            elif holder is not None and not claim.is_dead(holder, run_dir.claim_path):
                self._waiting.append(run)
            elif chosen and chosen[0].config.model != run.config.model:
                self._waiting.appendleft(run)
                break
            else:
                chosen.append(run)
            # A share for every slot: the last runs are not all given to the first worker.
            if len(chosen) >= min(self.options.runs_per_process, -(-len(self._waiting) // len(self._places)) or 1):
                break
        return chosen


class Worker:
    """One process and the runs that it was given, in their order."""

    def __init__(self, queue: Queue, runs: list[PlannedRun], environment: dict[str, str]):
        self._queue, self._left = queue, list(runs)
        plan = queue.plan
        group = ["--group", plan.name] if plan.name else []
        names = [run.signature for run in runs]
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._attempts = {run.signature: self._attempt(run) for run in runs}
        self._process = subprocess.Popen(
            [*queue.options.command, "--runs-dir", str(plan.store.root), *group, *names],
            env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._errors,
            start_new_session=True,  # Ctrl-C reaches the driver alone, which then ends the workers
        )  # fmt: skip
        self._shown: tuple[str, Progress] | None = None
        self._stage, self._done = "", 0

    def look(self) -> bool:
        """Show what has moved. True when the process has ended and its runs are accounted for."""
        ended = self._process.poll() is not None
        while self._left and self._settle(self._left[0]):
            self._left.pop(0)
        if self._left and not ended:
            self._watch(self._left[0])
        if not ended:
            return False
        for index, run in enumerate(self._left):
            begun = self._attempt(run) > self._attempts[run.signature]
            # Only the first one left can have been under way when the process died.
            died = index == 0 and (begun or self._process.returncode != 0)
            self._queue.again(run, self._reason() if died else None)
        self._errors.close()
        return True

    def stop(self) -> None:
        """Terminate the process; kill it when it does not end."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._errors.close()

    def _settle(self, run: PlannedRun) -> bool:
        """Whether a run has ended; shows how."""
        run_dir = self._queue.plan.store.run(run.signature)
        if run_dir.is_done():
            self._begin(run)
            result = run_dir.read_result()
            if result is not None:
                self._queue.show.finished(run, result)
            self._shown = None
            return True
        status = run_dir.status_hint()
        if status and status.state == "failed" and status.attempt > self._attempts[run.signature]:
            self._begin(run)
            self._queue.fail(run, run_dir, status.error or "no reason was recorded")
            self._shown = None
            return True
        return False

    def _watch(self, run: PlannedRun) -> None:
        status = self._queue.plan.store.run(run.signature).status_hint()
        if status is None or status.state != "running" or status.attempt <= self._attempts[run.signature]:
            return
        progress = self._begin(run)
        if status.stage != self._stage or status.done < self._done:
            progress.stage(status.stage, status.total)
            self._stage, self._done = status.stage, 0
        progress.advance(status.done - self._done, status.note)
        self._done = status.done

    def _begin(self, run: PlannedRun) -> Progress:
        if self._shown is None or self._shown[0] != run.signature:
            self._shown = run.signature, self._queue.show.running(run)
            self._stage, self._done = "", 0
        return self._shown[1]

    def _attempt(self, run: PlannedRun) -> int:
        status = self._queue.plan.store.run(run.signature).status_hint()
        return status.attempt if status is not None and status.state != "planned" else 0

    def _reason(self) -> str:
        code = self._process.returncode
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else ""
        if code >= 0:
            return f"the worker ended with exit code {code} before this run had a result{said}"
        name = signal.Signals(-code).name
        memory = "; the kernel ends processes so when memory runs out" if name == "SIGKILL" else ""
        return f"the worker was ended by {name}{memory}{said}"


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
