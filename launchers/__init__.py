"""Launchers: who executes the runs of a plan. Chosen by name with `launcher=NAME`."""

from vitq.launchers import inline  # noqa: F401 - registers itself
from vitq.launchers.base import LAUNCHERS, Launcher

__all__ = ["LAUNCHERS", "Launcher"]
