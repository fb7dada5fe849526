"""One job of a Hydra application, in a process of its own: what it reads, what it leaves."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.vitq_launcher import VitqLauncher
from omegaconf import open_dict

from vitq.errors import VitqError, brief
from vitq.store.atomic import write_bytes


def leave(file: Path, launcher: VitqLauncher, overrides: Sequence[str], number: int) -> None:
    """Write what the process of a job reads. Hydra's singletons must not change meanwhile."""
    file.write_bytes(cloudpickle.dumps((launcher, list(overrides), number, Singleton.get_state())))


def answer(file: Path) -> JobReturn | None:
    """What the process has left; None before it has."""
    try:
        ended: JobReturn = pickle.loads(file.with_suffix(".answer").read_bytes())
    except FileNotFoundError:
        return None
    return ended


def failure(overrides: Sequence[str], reason: str) -> JobReturn:
    """Stands for a job whose process ended without an answer."""
    return JobReturn(overrides=list(overrides), status=JobStatus.FAILED, _return_value=VitqError(reason))


def work() -> None:
    """Entry point of the process: executes the job in `argv[1]`, or the array element's own in that folder."""
    file = Path(sys.argv[1])
    if file.is_dir():
        file = file / os.environ["SLURM_ARRAY_TASK_ID"]
    launcher, overrides, number, singletons = pickle.loads(file.read_bytes())
    try:
        ended = run(launcher, overrides, number, os.environ.get("SLURM_JOB_ID", str(os.getpid())), singletons)
    except Exception as error:  # noqa: BLE001 - becomes the result of the job, which raises it again
        ended = JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=error)
    write_bytes(file.with_suffix(".answer"), _pickled(ended))


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
