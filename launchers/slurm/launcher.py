"""`launcher=slurm`: runs are packed into jobs, jobs into arrays that the cluster accepts, and all are watched."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from typing import ClassVar

from vitq.launchers.slurm import commands, options, packing, state
from vitq.launchers.slurm.driver import Driver
from vitq.planning.background import start_driver
from vitq.planning.display import Show
from vitq.planning.estimate import History
from vitq.planning.launcher import LAUNCHERS, Launcher, Preview
from vitq.planning.plan import Plan, PlannedRun
from vitq.planning.wording import count
from vitq.store import Store, claim
from vitq.store.run import JobState


@LAUNCHERS.register("slurm")
class Slurm(Launcher):
    """Executes runs in arrays of SLURM jobs."""

    Options: ClassVar[type] = options.SlurmOptions
    options: options.SlurmOptions

    def preview(self, runs: Sequence[PlannedRun], history: History) -> Preview:
        jobs = list(packing.pack(runs, self.options, history))
        parallel = min(self.options.max_parallel or len(jobs), len(jobs))
        try:
            size = commands.max_array() if commands.available() else None
        except commands.SlurmError:
            size = None
        in_arrays = f" in {count(math.ceil(len(jobs) / size), 'array')}" if size and jobs else ""
        gpus = self.options.gpus or 0
        each = f", {count(gpus, 'GPU')} each" if gpus else ""
        text = f"slurm: {count(len(jobs), 'job')}{in_arrays}, at most {parallel} at a time{each}"
        return Preview(len(jobs), parallel, gpus, text)

    def launch(self, plan: Plan, show: Show) -> list[str]:
        """Ctrl-C cancels the jobs. A driver that ends in any other way leaves them running, and the next
        start of the sweep finds them."""
        if all(plan.store.run(run.signature).is_done() for run in plan.runs):
            for run in plan.runs:
                show.skipped(run)
            _tidy(plan)
            return []
        driver = Driver(plan, show, self.options)
        try:
            driver.work()
        except KeyboardInterrupt as stop:
            if getattr(stop, "number", signal.SIGINT) == signal.SIGINT:
                driver.cancel()
            raise
        _tidy(plan)
        return list(driver.failed)

    def detach(self, plan: Plan, show: Show) -> str:
        """What the cluster does not accept yet is left to a driver in the background."""
        if all(plan.store.run(run.signature).is_done() for run in plan.runs):
            return "all runs are finished"
        driver = Driver(plan, show, self.options)
        driver.submit()
        left = len(driver.waiting)
        if not left:
            return "all runs are in the queue of the scheduler"
        return f"the cluster does not accept {left} of the runs yet; {start_driver(plan)} submits them when it does"

    @classmethod
    def cancel(cls, store: Store, sweep: str) -> list[str]:
        """Raises SlurmError when the scheduler cannot be asked."""
        jobs: list[str] = state.jobs_of(store, sweep)
        commands.cancel(jobs)
        return jobs

    @classmethod
    def cancel_run(cls, store: Store, signature: str) -> list[str]:
        """See Launcher. Raises SlurmError when the scheduler cannot be asked."""
        jobs: list[str] = state.jobs_of_run(store, signature)
        commands.cancel(jobs)
        return jobs

    @classmethod
    def state(cls, store: Store, signatures: set[str]) -> dict[str, JobState]:
        return dict(state.job_states(store, signatures))


def _tidy(plan: Plan) -> None:
    """Remove what dead processes left of these runs and their jobs."""
    for run in plan.runs:
        claim.remove_leftovers(plan.store.run(run.signature))
    plan.store.submissions.tidy()
