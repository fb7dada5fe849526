"""Launchers: who executes the runs of a plan. Chosen by name with `launcher=NAME`."""

from collections.abc import Callable, Mapping
from typing import Any

from vitq.launchers import arrays, inline, local, slurm  # noqa: F401 - they register themselves
from vitq.launchers.base import LAUNCHERS, Launcher

# What is wrong with `launcher.options`, by launcher; asked before anything starts.
CHECKS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "inline": lambda options: [f"launcher.options.{key}: unknown key; inline has no options" for key in options],
    "local": local.check,
    "slurm": slurm.check,
}

__all__ = ["CHECKS", "LAUNCHERS", "Launcher"]
