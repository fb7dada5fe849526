"""How runs become the jobs of arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vitq.launchers.slurm.options import SlurmOptions
from vitq.planning.estimate import History
from vitq.planning.plan import PlannedRun

T = TypeVar("T")

# A run whose cost is not known is taken to fill a job of its own.
_UNKNOWN = float("inf")


@dataclass
class Array:
    """What is to become one array: the runs of each job, and how many jobs may run at a time."""

    jobs: list[list[PlannedRun]]
    parallel: int

    def halves(self) -> list[Array]:
        """Two smaller ones, which share `parallel`."""
        half = len(self.jobs) // 2
        more = -(-self.parallel // 2)
        return [Array(self.jobs[:half], more), Array(self.jobs[half:], self.parallel - more)]


def pack(runs: Sequence[PlannedRun], options: SlurmOptions, history: History) -> Iterator[list[PlannedRun]]:
    """The runs of each job: of one model, at most `runs_per_job`, and not more than `minutes_per_job` by experience."""
    most = options.runs_per_job
    if options.minutes_per_job is not None and most == 1:
        most = len(runs)
    models = list(dict.fromkeys(run.config.model.name for run in runs))
    job: list[PlannedRun] = []
    minutes = 0.0
    for run in sorted(runs, key=lambda run: models.index(run.config.model.name)):
        cost = history.estimate(run.config, run.images) if options.minutes_per_job is not None else None
        own = cost.seconds / 60 if cost else _UNKNOWN
        full = options.minutes_per_job is not None and minutes + own > options.minutes_per_job
        if job and (len(job) >= most or full or job[0].config.model != run.config.model):
            yield job
            job, minutes = [], 0.0
        job.append(run)
        minutes += own
    if job:
        yield job


def chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one may have fewer."""
    yield from (list(items[start : start + size]) for start in range(0, len(items), size))
