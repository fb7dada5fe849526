"""Jobs of a Hydra application in processes of their own, a slot each."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides
from hydra_plugins.vitq_launcher import VitqLauncher
from omegaconf import open_dict

from vitq.errors import ConfigError, VitqError, brief
from vitq.launchers import local

log = logging.getLogger(__name__)


class JobsError(VitqError):
    """One or more jobs of a batch failed; the message has a line for each."""


def launch(launcher: VitqLauncher, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """See VitqLauncher.launch."""
    assert launcher.config is not None
    problems = local.check(launcher.options)
    if problems:
        raise ConfigError([problem.replace("launcher.options.", "hydra.launcher.", 1) for problem in problems])
    hydra = launcher.config.hydra
    configure_log(hydra.hydra_logging, hydra.verbose)
    Path(str(hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    places = local.places(local.Options(**launcher.options))
    for place in places:
        free.put(place)
    log.info(f"Launching {len(job_overrides)} jobs in {len(places)} slots")
    with tempfile.TemporaryDirectory(prefix="vitq-hydra-") as folder, ThreadPoolExecutor(len(places)) as threads:
        jobs = []
        for number, overrides in enumerate(job_overrides, first):
            log.info(f"\t#{number} : {' '.join(filter_overrides(overrides))}")
            file = Path(folder) / str(number)
            # Pickled here: another thread must not see Hydra's singletons while they are copied.
            file.write_bytes(cloudpickle.dumps((launcher, list(overrides), number, Singleton.get_state())))
            jobs.append(threads.submit(_process, file, list(overrides), free))
        ended = [job.result() for job in jobs]
    return with_errors(ended, first)


def with_errors(ended: list[JobReturn], first: int) -> list[JobReturn]:
    """The same jobs; failed ones raise, when they are asked for their value, the errors of all that failed."""
    failed = {number: job for number, job in enumerate(ended, first) if job.status != JobStatus.COMPLETED}
    if failed:
        lines = [
            f"  #{number} {' '.join(job.overrides or [])}: {brief(job._return_value)}" for number, job in failed.items()
        ]
        error = JobsError("\n".join([f"{len(failed)} of {len(ended)} jobs failed:", *lines]))
        for job in failed.values():
            job.return_value = _caused(error, job._return_value)
    return ended


def _caused(error: JobsError, cause: BaseException) -> JobsError:
    found = JobsError(*error.args)
    found.__cause__ = cause
    return found


def _process(file: Path, overrides: list[str], free: queue.SimpleQueue[dict[str, str]]) -> JobReturn:
    """One job in a process, in the next free slot."""
    place = free.get()
    try:
        command = [sys.executable, "-c", f"from {__name__} import work; work()", str(file)]
        done = subprocess.run(command, env=os.environ | place, check=False, stdin=subprocess.DEVNULL)
        answer = file.with_suffix(".answer")
        if answer.exists():
            found: JobReturn = pickle.loads(answer.read_bytes())
            return found
        how = f"exit code {done.returncode}" if done.returncode >= 0 else signal.Signals(-done.returncode).name
        error = VitqError(f"the process ended with {how} before the job had returned")
        return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=error)
    finally:
        free.put(place)


def work() -> None:
    """Entry point of the process: executes the job in `argv[1]` and leaves its JobReturn beside it."""
    file = Path(sys.argv[1])
    launcher, overrides, number, singletons = pickle.loads(file.read_bytes())
    try:
        ended = run(launcher, overrides, number, f"{os.getpid()}", singletons)
    except Exception as error:  # noqa: BLE001 - becomes the result of the job, which raises it again
        ended = JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=error)
    part = file.with_suffix(".part")
    part.write_bytes(_pickled(ended))
    part.rename(file.with_suffix(".answer"))


def run(launcher: VitqLauncher, overrides: list[str], number: int, job_id: str, singletons: Any) -> JobReturn:
    """Compose and execute one job in this process; JobReturn holds its value or its error."""
    from hydra.core.utils import run_job, setup_globals

    assert launcher.hydra_context is not None
    assert launcher.config is not None
    assert launcher.task_function is not None
    Singleton.set_state(singletons)
    setup_globals()
    config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, overrides)
    with open_dict(config):
        config.hydra.job.id = job_id
        config.hydra.job.num = number
    return run_job(
        hydra_context=launcher.hydra_context,
        task_function=launcher.task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _pickled(job: JobReturn) -> bytes:
    try:
        return bytes(cloudpickle.dumps(job))
    except Exception as error:  # noqa: BLE001 - any class of value may refuse in any way
        job.status, job.return_value = JobStatus.FAILED, VitqError(f"the job's value cannot be pickled: {brief(error)}")
        return bytes(cloudpickle.dumps(job))
