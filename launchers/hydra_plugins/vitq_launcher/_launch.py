"""What both launchers do around their jobs: check the options, set up logs, gather the errors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides
from hydra_plugins.vitq_launcher import VitqLauncher

from vitq.errors import ConfigError, Problem, VitqError, brief
from vitq.launchers import LAUNCHERS

log = logging.getLogger(__name__)


class JobsError(VitqError):
    """One or more jobs of a batch failed; the message has a line for each."""


def launch(launcher: VitqLauncher, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """See VitqLauncher.launch."""
    assert launcher.config is not None
    problems = LAUNCHERS[launcher.name].check(launcher.options)
    if problems:
        ours, hydras = "launcher.options.", "hydra.launcher."
        said = [(p.replace(ours, hydras, 1), p.key.replace(ours, hydras, 1), p) for p in problems]
        raise ConfigError([Problem(text, key, p.value, p.valid, action=p.action) for text, key, p in said])
    hydra = launcher.config.hydra
    configure_log(hydra.hydra_logging, hydra.verbose)
    Path(str(hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    log.info(f"Launching {len(job_overrides)} jobs ({launcher.name})")
    for number, overrides in enumerate(job_overrides, first):
        log.info(f"\t#{number} : {' '.join(filter_overrides(overrides))}")
    if launcher.name == "slurm":
        from hydra_plugins.vitq_launcher._array import launch as execute
    else:
        from hydra_plugins.vitq_launcher._slots import launch as execute
    return list(with_errors(execute(launcher, job_overrides, first), first))


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
