"""SLURM: the one module that talks to it. Scripts are written and submitted by submitit, states come from squeue."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic.dataclasses import dataclass

from vitq.errors import VitqError
from vitq.launchers.slurm.options import SlurmOptions
from vitq.planning.background import same_imports

# Seconds that a command of SLURM may take; a controller that is away makes each of them wait.
_PATIENCE = 60.0
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip

# Messages of the commands when the controller does not answer, and when a limit on submitted jobs is reached.
_AWAY = ("Unable to contact", "Connection refused", "timed out", "Zero Bytes", "Connection reset", "backup controller")
_FULL = ("Job violates accounting/QOS policy", "Resource temporarily unavailable", "unable to accept job", "SubmitJob")


class SlurmError(VitqError):
    """SLURM refused, or is not there."""


class JobLimitError(SlurmError):
    """A limit on submitted jobs is reached; fewer at a time, or later, may be accepted."""


class UnreachableError(SlurmError):
    """The controller does not answer."""


@dataclass(frozen=True)
class Element:
    """One job of an array as the scheduler sees it. state: SLURM's word, e.g. PENDING; reason: why it waits."""

    job: str
    token: str
    index: int
    state: str
    reason: str

    @property
    def ended(self) -> bool:
        """Whether the scheduler will not start it again."""
        return self.state in _ENDED

    @property
    def text(self) -> str:
        """For people: `job 12_3 pending (Resources)`."""
        return f"job {self.job} {self.state.lower()}" + ("" if self.reason == "None" else f" ({self.reason})")


def available() -> bool:
    """Whether this machine has SLURM's commands."""
    return shutil.which("sbatch") is not None and shutil.which("srun") is not None


def require() -> None:
    """Raises SlurmError where `launcher=slurm` cannot work."""
    if not available():
        raise SlurmError(
            "launcher=slurm: sbatch and srun are not on PATH; start this on a login node of the cluster, or choose "
            "launcher=local",
            "launcher",
            "slurm",
            ["local"],
        )


def max_array() -> int:
    """The most elements of one array: SLURM's MaxArraySize. Raises UnreachableError."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"), re.MULTILINE)
    return max(1, int(match[1])) if match else 1001


def submit(
    options: SlurmOptions, folder: Path, token: str, name: str, command: Sequence[str], count: int, most: int
) -> str:
    """Submit an array of `count` jobs that each execute `command`, `most` at a time. Returns its id.

    folder: for the script and the logs `<index>.log`. Raises JobLimitError, UnreachableError, or SlurmError with what
    sbatch said.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    requested = {
        "partition": options.partition, "account": options.account, "qos": options.qos, "mem": options.mem,
        "constraint": options.constraint, "gres": options.gres, "gpus_per_node": options.gpus,
        "cpus_per_task": options.cpus,
    }  # fmt: skip
    log = str(folder).replace("%", "%%") + "/%a.log"
    executor = SlurmExecutor(folder=folder)
    executor.update_parameters(
        job_name=f"vitq-{name}", time=options.time, comment=token, wckey=None, array_parallelism=most,
        # `exec`: Python replaces the shell, so that the warning signal reaches it alone, not W&B's service.
        use_srun=False, setup=[*_exports(), *options.setup], stderr_to_stdout=True,
        **{key: value for key, value in requested.items() if value is not None},
        additional_parameters={
            "signal": f"B:USR2@{options.warning}", "output": log, "requeue": True, **options.extra,
        },
    )  # fmt: skip
    executor.parameters["map_count"] = count
    try:
        # Not `submit`: that pickles a function, and a submitter that is killed at the wrong moment leaves no pickle.
        return str(executor._submit_command("exec " + shlex.join(command)).job_id)
    except (FailedJobError, FailedSubmissionError) as error:
        raise _refusal(str(error)) from error


def _exports() -> list[str]:
    """Lines of shell after which Python imports on a node what it imports here."""
    return [f"export {name}={shlex.quote(value)}" for name, value in same_imports().items()]


def elements() -> list[Element]:
    """All jobs of this user that vitq submitted and the controller still knows. Raises UnreachableError."""
    text = _ask("squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%F|%K|%T|%k|%r")
    jobs = []
    for line in text.splitlines():
        job, index, state, token, reason = line.strip().split("|", 4)
        if re.fullmatch(r"[0-9a-f]{12}", token) and index.isdigit():
            jobs.append(Element(f"{job}_{index}", token, int(index), state, reason))
    return jobs


def past_states(jobs: Iterable[str]) -> dict[str, str]:
    """What accounting says of jobs that the controller has forgotten; empty where there is no accounting."""
    ids = ",".join(sorted(jobs))
    if not ids:
        return {}
    try:
        lines = _ask("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ids).splitlines()
    except SlurmError:
        return {}
    return {job: state.split(" ")[0] for job, _, state in (line.partition("|") for line in lines) if state}


def cancel(jobs: Iterable[str]) -> None:
    """scancel. Raises SlurmError where the controller does not answer."""
    ids = list(jobs)
    if ids:
        _ask("scancel", *ids)


def requeue() -> None:
    """Put the job that this process belongs to back into the queue. Raises SlurmError when that is not allowed."""
    _ask("scontrol", "requeue", os.environ["SLURM_JOB_ID"])


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False, env=os.environ | {"LC_ALL": "C"}
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not on PATH; start this on a login node of the cluster") from error
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(f"{command[0]} did not answer within {_PATIENCE:.0f} s") from error
    if done.returncode:
        raise _refusal(done.stderr, command[0])
    return done.stdout


def _refusal(output: str, command: str = "sbatch") -> SlurmError:
    lines = [line for line in output.splitlines() if "error:" in line] or [output.strip()[-300:]]
    text = "; ".join(dict.fromkeys(line.partition("error:")[2].strip() or line for line in lines))
    if any(word in output for word in _AWAY):
        return UnreachableError(f"the SLURM controller does not answer: {text}")
    if any(word in output for word in _FULL):
        return JobLimitError(f"SLURM does not accept more jobs: {text}")
    return SlurmError(f"{command} refused: {text}")
