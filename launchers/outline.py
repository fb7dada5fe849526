"""What a launcher would make of a plan: how many processes or jobs, how many of them at a time. For `--dry-run`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitq.estimate import History
from vitq.launchers import local, packing, slurm
from vitq.plan import PlannedRun


@dataclass(frozen=True)
class Outline:
    """allocations: processes or jobs; parallel: at most so many at a time; gpus: of each (0.5: two share it).

    text: all this for people.
    """

    allocations: int
    parallel: int
    gpus: float
    text: str


def outline(name: str, options: Mapping[str, Any], runs: Sequence[PlannedRun], history: History) -> Outline:
    """What `launcher=NAME` would start for these runs, with checked options. Nothing is started or submitted."""
    make = {"local": _local, "slurm": _slurm}.get(name, _inline)
    return make(options, runs, history)


def _inline(options: Mapping[str, Any], runs: Sequence[PlannedRun], history: History) -> Outline:
    gpus = min(1, len(local.visible_gpus()))
    return Outline(min(1, len(runs)), 1, gpus, "inline: this process, one run after another")


def _local(options: Mapping[str, Any], runs: Sequence[PlannedRun], history: History) -> Outline:
    asked = local.parse(options)
    slots, devices = len(local.places(asked)), len(local.visible_gpus())
    parallel = min(slots, len(runs))
    processes = max(parallel, math.ceil(len(runs) / asked.runs_per_process))
    share = devices / slots
    on = f"{share:.3g} GPU each" if devices else f"{local.places(asked)[0]['OMP_NUM_THREADS']} threads each"
    return Outline(processes, parallel, share, f"local: {_count(processes, 'process', 'es')}, {slots} slots, {on}")


def _slurm(options: Mapping[str, Any], runs: Sequence[PlannedRun], history: History) -> Outline:
    asked = slurm.parse(options)
    jobs = list(packing.pack(runs, asked, history))
    parallel = min(asked.max_parallel or len(jobs), len(jobs))
    try:
        size = slurm.max_array() if slurm.available() else None
    except slurm.SlurmError:
        size = None
    in_arrays = f" in {_count(math.ceil(len(jobs) / size), 'array')}" if size and jobs else ""
    gpus = asked.gpus or 0
    each = f", {_count(gpus, 'GPU')} each" if gpus else ""
    text = f"slurm: {_count(len(jobs), 'job')}{in_arrays}, at most {parallel} at a time{each}"
    return Outline(len(jobs), parallel, gpus, text)


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"
