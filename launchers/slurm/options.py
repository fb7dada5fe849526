"""`launcher.options` of SLURM."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import field
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES

# Set by vitq, and refused in `extra`.
_OURS = ("array", "signal", "output", "error", "open-mode", "comment", "requeue", "no-requeue", "dependency")


def _memory(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?[KMGT]B?", text):
        raise ValueError("a number with its unit is expected, e.g. 16GB")
    return text


def _minutes(value: Any) -> Any:
    """sbatch's ways to write a time limit as minutes, rounded up: `90`, `90:30`, `2:00:00`, `1-12`, `1-12:30:00`."""
    if not isinstance(value, str) or re.fullmatch(r"\d+", value):
        return value
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", value)
    if match is None:
        raise ValueError("valid: minutes, or as sbatch has it: 90, 90:30, 2:00:00, 1-12, 1-12:30:00")
    days, first, second, third = (int(part or 0) for part in match.groups())
    if match[1] is not None:  # days-hours[:minutes[:seconds]]
        seconds = ((days * 24 + first) * 60 + second) * 60 + third
    elif match[4] is not None:  # hours:minutes:seconds
        seconds = (first * 60 + second) * 60 + third
    else:  # minutes:seconds
        seconds = first * 60 + second
    if not seconds:
        raise ValueError("a limit above zero is needed")
    return math.ceil(seconds / 60)


def _free(extra: dict[str, Any]) -> dict[str, Any]:
    taken = sorted({key.replace("_", "-") for key in extra} & set(_OURS))
    if taken:
        raise ValueError(f"{', '.join(taken)}: vitq sets this itself")
    return extra


Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=RULES)
class SlurmOptions:
    """`launcher.options`. What is None is left to the cluster.

    partition, account, qos, constraint, gres, mem: as sbatch has them (mem with its unit, `16GB`). gpus: per job.
    cpus: cores per job. time: limit in minutes, or as sbatch writes it (`2:00:00`,
    `1-12:00:00`). setup: lines of shell before Python starts. extra: further options of sbatch, such as `{exclude:
    n7, nice: 100}`. python: words that start Python on a node, such as a container's command. command: what executes
    runs; `--runs-dir DIR [--group NAME] SIGNATURE…` is appended; None: `PYTHON -m vitq.job`.

    runs_per_job: so many runs of one model follow each other in one job. minutes_per_job: as many as take so long by
    the store's own history, at most `runs_per_job` where that is above 1. max_parallel: jobs at a time.
    warning: seconds before the time limit at which a run is stopped and its job queued again. max_timeouts: how often.
    max_retries: how often a run is tried again whose process died or whose job was lost; one that raised an error is
    not. poll, ask: seconds between two looks at the store and between two questions to the scheduler.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    mem: Annotated[str, AfterValidator(_memory)] | None = None
    gpus: Positive | None = None
    cpus: Positive | None = None
    time: Annotated[Positive, BeforeValidator(_minutes)] = 240
    setup: tuple[str, ...] = ()
    extra: Annotated[dict[str, Any], AfterValidator(_free)] = field(default_factory=dict)
    python: tuple[str, ...] = field(default_factory=lambda: (sys.executable,))
    command: tuple[str, ...] | None = None
    runs_per_job: Positive = 1
    minutes_per_job: Annotated[float, Field(gt=0)] | None = None
    max_parallel: Positive | None = None
    warning: Annotated[int, Field(ge=1, le=3600)] = 120
    max_timeouts: Annotated[int, Field(ge=0)] = 20
    max_retries: Annotated[int, Field(ge=0)] = 1
    poll: Annotated[float, Field(gt=0)] = 2.0
    ask: Annotated[float, Field(gt=0)] = 15.0
