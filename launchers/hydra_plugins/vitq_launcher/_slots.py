"""Jobs of a Hydra application on this machine, a process and a slot each."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra_plugins.vitq_launcher import VitqLauncher, _job

from vitq.launchers.local.slots import LocalOptions, slot_environments
from vitq.planning.background import same_imports


def launch(launcher: VitqLauncher, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """All jobs, `slots` at a time; returns when they have ended."""
    free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    environments = slot_environments(LocalOptions(**launcher.options))
    for environment in environments:
        free.put(environment)
    with tempfile.TemporaryDirectory(prefix="vitq-hydra-") as folder, ThreadPoolExecutor(len(environments)) as threads:
        jobs = []
        for number, overrides in enumerate(job_overrides, first):
            file = Path(folder) / str(number)
            _job.leave(file, launcher, overrides, number)
            jobs.append(threads.submit(_process, file, overrides, free))
        return [job.result() for job in jobs]


def _process(file: Path, overrides: Sequence[str], free: queue.SimpleQueue[dict[str, str]]) -> JobReturn:
    """One job in a process, in the next free slot."""
    environment = free.get()
    try:
        command = [sys.executable, "-c", "from hydra_plugins.vitq_launcher._job import work; work()", str(file)]
        done = subprocess.run(
            command, env=os.environ | same_imports() | environment, check=False, stdin=subprocess.DEVNULL
        )
    finally:
        free.put(environment)
    how = f"exit code {done.returncode}" if done.returncode >= 0 else signal.Signals(-done.returncode).name
    answer: JobReturn | None = _job.answer(file)
    if answer is not None:
        return answer
    failed: JobReturn = _job.failure(overrides, f"the process ended with {how} before the job had returned")
    return failed
