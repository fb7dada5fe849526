"""What a launcher is, and the registry of them."""

from __future__ import annotations

from typing import Protocol

from vitq.plan import Plan
from vitq.registry import Registry
from vitq.show import Show


class Launcher(Protocol):
    """Executes the unfinished runs of a plan that was committed to its store, and returns when all have ended.

    A launcher decides nothing about results: a run is done when its stored result validates (`RunDir.is_done`), and
    a failed run never stops the others.
    """

    def __call__(self, plan: Plan, show: Show) -> list[str]:
        """Signatures of the runs that failed. Ctrl-C passes through as KeyboardInterrupt with finished runs kept."""


# A launcher's module must be cheap to import: plans look names up here. Import torch, submitit … inside the call.
LAUNCHERS: Registry[Launcher] = Registry("launcher")
