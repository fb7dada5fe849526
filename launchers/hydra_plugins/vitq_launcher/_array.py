"""Jobs of a Hydra application as arrays of SLURM jobs."""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra_plugins.vitq_launcher import VitqLauncher, _job

from vitq.launchers.slurm import commands
from vitq.launchers.slurm.launcher import Slurm
from vitq.launchers.slurm.options import SlurmOptions

LOG = logging.getLogger(__name__)

# So often in a row a job without an answer must be out of the queue before it counts as lost.
_SURE = 2
# Characters of a lost job's log that its error shows.
_TAIL = 1500


def launch(launcher: VitqLauncher, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """All jobs, in arrays that the cluster accepts; returns when they have ended. Ctrl-C cancels them.

    Pickled jobs, answers and logs lie under `.vitq` in the sweep's folder, which the nodes must see.
    """
    assert launcher.config is not None
    commands.require()
    options = Slurm(launcher.options).options
    top = Path(str(launcher.config.hydra.sweep.dir)).absolute() / ".vitq"
    size = commands.max_array()
    parts = [range(start, min(start + size, len(job_overrides))) for start in range(0, len(job_overrides), size)]
    waiting: dict[tuple[str, int], int] = {}
    files: dict[int, Path] = {}
    arrays: list[str] = []
    try:
        for part in parts:
            token = uuid.uuid4().hex[:12]
            folder = top / token
            folder.mkdir(parents=True)
            for index, number in enumerate(part):
                files[number] = folder / str(index)
                _job.leave(files[number], launcher, job_overrides[number], first + number)
                waiting[token, index] = number
            command = [*options.python, "-c", "from hydra_plugins.vitq_launcher._job import work; work()", str(folder)]
            name = str(launcher.config.hydra.job.name)
            most = min(options.max_parallel or len(part), len(part))
            arrays.append(commands.submit(options, folder, token, name, command, len(part), most))
        ended = _wait(options, waiting, files, job_overrides)
    except BaseException:
        commands.cancel(arrays)
        raise
    return [ended[number] for number in range(len(job_overrides))]


def _wait(
    options: SlurmOptions,
    waiting: dict[tuple[str, int], int],
    files: dict[int, Path],
    job_overrides: Sequence[Sequence[str]],
) -> dict[int, JobReturn]:
    """The answers, by number; a job that has left the queue without one has failed."""
    ended: dict[int, JobReturn] = {}
    missing: Counter[tuple[str, int]] = Counter()
    logged = {"None", "Priority"}  # every job that waits says so for a moment
    asked = time.monotonic()
    while waiting:
        for element_id, number in list(waiting.items()):
            answer = _job.answer(files[number])
            if answer is None and missing[element_id] >= _SURE:
                said = f"its SLURM job ended without an answer; {_said(files[number])}"
                answer = _job.failure(job_overrides[number], said)
            if answer is not None:
                ended[number] = answer
                del waiting[element_id]
        if waiting and time.monotonic() - asked >= options.ask:
            asked = time.monotonic()
            try:
                alive = {(e.token, e.index): e for e in commands.elements() if not e.ended}
            except commands.UnreachableError:
                continue  # asked again: the jobs run on without their controller
            for element in (alive[element_id] for element_id in waiting if element_id in alive):
                if element.state == "PENDING" and element.reason not in logged:
                    logged.add(element.reason)
                    LOG.info(element.text)
            for element_id in waiting:
                missing[element_id] = 0 if element_id in alive else missing[element_id] + 1
        time.sleep(options.poll)
    return ended


def _said(file: Path) -> str:
    log = file.with_suffix(".log")
    try:
        text = log.read_text(errors="replace")[-_TAIL:].strip()
    except OSError:
        text = ""
    return f"its log {log} ends with: {text}" if text else f"its log {log} is empty"
