"""Runs that wait for a slot of this machine, and the workers in the slots."""

from __future__ import annotations

from collections import deque
from multiprocessing import connection

from vitq.errors import VitqError
from vitq.launchers.local.slots import LocalOptions, slot_environments
from vitq.launchers.local.worker import Worker
from vitq.planning.display import Show
from vitq.planning.plan import Plan, PlannedRun
from vitq.store import claim

# Longest wait for a worker, in seconds.
_LOOK = 0.1


class Queue:
    """Runs that wait, and the slots that take them one by one."""

    def __init__(self, plan: Plan, show: Show, options: LocalOptions):
        self.plan, self.show, self.options = plan, show, options
        self.failed: list[str] = []
        self._waiting: deque[PlannedRun] = deque()
        self._deaths: dict[str, int] = {}
        # Runs of one model side by side, so that what a process holds of it (caches, compiled blocks) serves them all.
        models = list(dict.fromkeys(run.config.model.name for run in plan.runs))
        for run in sorted(plan.runs, key=lambda run: models.index(run.config.model.name)):
            if plan.store.run(run.signature).is_done():
                show.skipped(run)
                claim.remove_leftovers(plan.store.run(run.signature))
            else:
                self._waiting.append(run)
        self._environments = slot_environments(options)
        self._slots: dict[int, Worker] = {}
        self._ending: list[Worker] = []

    def work(self) -> None:
        """Until every run has ended."""
        while self._waiting or any(worker.run is not None for worker in self._slots.values()):
            for number in range(len(self._environments)):
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

    def cancelled(self, run: PlannedRun) -> None:
        """`vitq cancel SIGNATURE`: the run stays interrupted, and the others go on."""
        self.show.failed(run, VitqError("told to stop; `vitq retry` goes on from its last finished block"))
        self.failed.append(run.signature)

    def later(self, run: PlannedRun) -> None:
        """Another process executes this run; whether it ends there is looked at again."""
        self._waiting.append(run)

    def fail(self, run: PlannedRun, reason: str) -> None:
        """A run has ended without a result."""
        self.plan.store.run(run.signature).fail(reason)
        self.show.failed(run, VitqError(reason))
        self.failed.append(run.signature)

    def _take(self) -> PlannedRun | None:
        """The next run that no other process executes; those that are executed go to the end."""
        for _ in range(len(self._waiting)):
            run = self._waiting.popleft()
            run_dir = self.plan.store.run(run.signature)
            if run_dir.is_done():
                self.show.skipped(run)
            elif claim.is_held(run_dir):
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
            worker = self._slots[number] = Worker(self, self._environments[number])
        worker.give(run)
