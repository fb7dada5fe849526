"""Slots of this machine: how many runs at a time, on which device, with how many threads."""

from __future__ import annotations

import sys
from dataclasses import field
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.machine import usable_cores, visible_gpus


@dataclass(frozen=True, config=RULES)
class LocalOptions:
    """`launcher.options`.

    slots: workers at a time; None: one for each visible GPU, on CPU one for each two cores. threads: of each worker;
    None: the cores divided by the slots. runs_per_process: so many runs follow each other in one process, which loads
    its libraries once. max_retries: how often a run whose process died is tried again; one that raised an error is
    not. command: what starts a worker; `--runs-dir DIR [--group NAME] --feed FD` is appended.
    """

    slots: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    runs_per_process: Annotated[int, Field(ge=1)] = 64
    max_retries: Annotated[int, Field(ge=0)] = 1
    command: tuple[str, ...] = field(default_factory=lambda: (sys.executable, "-m", "vitq.job"))


def slot_environments(options: LocalOptions) -> list[dict[str, str]]:
    """The environment of each slot: its device and its share of the cores."""
    cores = usable_cores()
    devices = visible_gpus()
    slots = options.slots or len(devices) or max(1, cores // 2)
    threads = str(options.threads or max(1, cores // slots))
    shared = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return [
        shared | ({"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if devices else {})
        for number in range(slots)
    ]
