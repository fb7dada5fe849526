"""Runs that wait for a slot of this machine, and the workers in the slots."""

from __future__ import annotations

from collections import Counter, deque
from multiprocessing import connection

from vitq.launchers.local.slots import LocalOptions, slot_environments
from vitq.launchers.local.worker import Ended, Worker
from vitq.planning.display import Show
from vitq.planning.plan import Plan, PlannedRun
from vitq.store import claim

# Longest wait for a worker, in seconds.
_LOOK = 0.1


class Queue:
    """Runs that wait, and the slots that take them one by one."""

    def __init__(self, plan: Plan, show: Show, options: LocalOptions):
        self._plan, self._show, self._options = plan, show, options
        self.failed: list[str] = []
        self._waiting: deque[PlannedRun] = deque()
        self._deaths: Counter[str] = Counter()
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
                if (ended := worker.look()) is not None:
                    self._note(ended)
                if worker.gone:
                    del self._slots[number]
            self._ending = [worker for worker in self._ending if not worker.ended()]

    def stop(self) -> None:
        """End what still runs: its state is kept, and the next start goes on from there."""
        for worker in [*self._slots.values(), *self._ending]:
            worker.stop()

    def _note(self, ended: Ended) -> None:
        """What becomes of a run: one whose process died is tried again, one that another process executes waits."""
        run = ended.run.run
        self._deaths[run.signature] += ended.how == "died"
        if self._deaths[run.signature] > self._options.max_retries and ended.how == "died":
            ended.run.fail(ended.reason)
            self.failed.append(run.signature)
        elif ended.how in ("died", "busy"):
            self._waiting.append(run)
        elif ended.how in ("failed", "cancelled"):
            self.failed.append(run.signature)

    def _take(self) -> PlannedRun | None:
        """The next run that no other process executes; those that are executed go to the end."""
        for _ in range(len(self._waiting)):
            run = self._waiting.popleft()
            run_dir = self._plan.store.run(run.signature)
            if run_dir.is_done():
                self._show.skipped(run)
            elif claim.is_held(run_dir):
                self._waiting.append(run)
            else:
                return run
        return None

    def _give(self, number: int, run: PlannedRun) -> None:
        worker = self._slots.get(number)
        if worker is not None and worker.given >= self._options.runs_per_process:
            worker.close()
            self._ending.append(worker)
            worker = None
        if worker is None:
            environment = self._environments[number]
            worker = self._slots[number] = Worker(self._plan, self._show, self._options, environment)
        worker.give(run)
