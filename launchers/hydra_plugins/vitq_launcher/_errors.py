"""What a launcher says at the end of a batch in which jobs failed."""

from __future__ import annotations

from hydra.core.utils import JobReturn, JobStatus

from vitq.errors import VitqError, brief


class JobsError(VitqError):
    """One or more jobs of a batch failed; the message has a line for each."""


def with_errors(ended: list[JobReturn], first: int) -> list[JobReturn]:
    """The same jobs; failed ones raise, when they are asked for their value, the errors of all that failed."""
    failed = {number: job for number, job in enumerate(ended, first) if job.status != JobStatus.COMPLETED}
    if failed:
        names = {number: " ".join(job.overrides or []) for number, job in failed.items()}
        lines = [f"  #{number} {names[number]}: {brief(job._return_value)}" for number, job in failed.items()]
        error = JobsError("\n".join([f"{len(failed)} of {len(ended)} jobs failed:", *lines]))
        for job in failed.values():
            job.return_value = _caused(error, job._return_value)
    return ended


def _caused(error: JobsError, cause: BaseException) -> JobsError:
    copy = JobsError(*error.args)
    copy.__cause__ = cause
    return copy
