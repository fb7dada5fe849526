"""Launchers: who executes the runs of a plan. Chosen by name with `launcher=NAME`."""

from vitq.planning.launcher import LAUNCHERS, Launcher

__all__ = ["LAUNCHERS", "Launcher"]
