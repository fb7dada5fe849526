"""What a launcher is, and the registry of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import TypeAdapter

from vitq import signals
from vitq.config import LauncherConfig
from vitq.config.problems import parse_options
from vitq.errors import ConfigError, Problem, unknown
from vitq.planning.background import start_driver
from vitq.planning.display import Show
from vitq.planning.estimate import History
from vitq.planning.plan import Plan, PlannedRun
from vitq.registry import Registry
from vitq.store import Store
from vitq.store.drivers import driving
from vitq.store.run import JobState


@dataclass(frozen=True)
class Preview:
    """What a launcher would make of a plan.

    allocations: processes or jobs; parallel: at most so many at a time; gpus: of each (0.5: two share it).
    text: all this for people.
    """

    allocations: int
    parallel: int
    gpus: float
    text: str


class Launcher(ABC):
    """Executes the unfinished runs of a plan that was committed to its store.

    A launcher decides nothing about results: a run is done when its stored result validates (`RunDir.is_done`), and
    a failed run never stops the others. Its module must be cheap to import, plans look names up: import torch,
    submitit … inside the methods.
    """

    # Frozen dataclass of `launcher.options`.
    Options: ClassVar[type]
    # Whether its runs compute on this machine, so that a device that is not here is an error of the plan.
    is_here: ClassVar[bool] = False
    # Whether each of its processes sees one GPU alone, as `cuda`.
    sees_one_gpu: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any]):
        """Raises ConfigError for options that `check` finds wrong."""
        if problems := self.check(options):
            raise ConfigError(problems)
        self.options: Any = TypeAdapter(self.Options).validate_python(dict(options))

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> list[Problem]:
        """Problems of `launcher.options`, one line each."""
        return parse_options(cls.Options, options, "launcher.options", "key")[1]

    @abstractmethod
    def preview(self, runs: Sequence[PlannedRun], history: History) -> Preview:
        """What it would start for these runs. Nothing is started or submitted."""

    @abstractmethod
    def launch(self, plan: Plan, show: Show) -> list[str]:
        """Execute and return when all runs have ended: signatures of those that failed.

        Ctrl-C passes through as KeyboardInterrupt with finished runs kept.
        """

    def detach(self, plan: Plan, show: Show) -> str:
        """Leave a committed sweep to the scheduler, or to a driver in the background. Returns a line for people."""
        if all(plan.store.run(run.signature).is_done() for run in plan.runs):
            return "all runs are finished"
        return f"{start_driver(plan)} executes the runs"

    @classmethod
    def cancel(cls, store: Store, sweep: str) -> list[str]:
        """End what a scheduler has of a sweep; names of what was ended. Processes are ended by `vitq cancel` itself."""
        return []

    @classmethod
    def cancel_run(cls, store: Store, signature: str) -> list[str]:
        """End the job of a scheduler that has nothing but one run to do; its name, or nothing."""
        return []

    @classmethod
    def state(cls, store: Store, signatures: set[str]) -> dict[str, JobState]:
        """What a scheduler says of some runs, by signature; empty where there is none."""
        return {}


LAUNCHERS: Registry[type[Launcher]] = Registry("launcher", "vitq.launchers")


def launcher_problems(config: LauncherConfig) -> list[Problem]:
    """What is wrong with a launcher's name or options, one line each."""
    if config.name in LAUNCHERS:
        return LAUNCHERS[config.name].check(config.options)
    return [unknown("launcher", config.name, LAUNCHERS, key="launcher.name")]


def launcher_of(plan: Plan) -> Launcher:
    """The launcher that a plan names, with the plan's options. Raises VitqError and ConfigError."""
    return LAUNCHERS[plan.launcher.name](plan.launcher.options)


def launch(plan: Plan, show: Show) -> list[str]:
    """Execute a committed plan and return when all runs have ended: signatures of those that failed.

    A signal to stop raises `signals.Interrupted`, with finished runs kept.
    """
    launcher = launcher_of(plan)
    with driving(plan.store, plan.name) if plan.name else nullcontext(), signals.interruptible(), show:
        return launcher.launch(plan, show)
