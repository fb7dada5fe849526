"""Runs that other processes execute, as far as the store shows: progress, results, failures."""

from __future__ import annotations

import signal

from vitq.errors import VitqError
from vitq.planning.display import Show
from vitq.planning.plan import PlannedRun
from vitq.progress import Progress
from vitq.store import Store, claim
from vitq.store.status import Status


class FollowedRun:
    """One run that another process executes, and how it ends. Failures recorded before `begin_anew` are ignored."""

    def __init__(self, store: Store, show: Show, run: PlannedRun):
        self.run = run
        self._show, self._run_dir = show, store.run(run.signature)
        self._progress: Progress | None = None
        self._stage, self._done = "", 0
        self.begin_anew()

    def begin_anew(self) -> None:
        """It is handed to another process: failures recorded before this point are ignored."""
        self._before = self._run_dir.attempt

    def look(self, ended: bool = False) -> bool | None:
        """True: it has its result; False: it failed; None: neither, and what moved was shown.

        ended: its process has ended with it, so that a status that still says `running` counts for nothing.
        """
        status = self._run_dir.status_hint()
        # Status first: a run whose status says done has its result by now.
        if (ended or status is None or status.state != "running") and self._run_dir.is_done():
            self._begin()
            result = self._run_dir.read_result()
            if result is not None:
                self._show.finished(self.run, result)
            return True
        if status is not None and status.state == "failed" and status.attempt > self._before:
            self._begin()
            self.fail(status.error or "no reason was recorded")
            return False
        self._show_progress(status)
        return None

    def show_progress(self) -> None:
        """Show what has moved, while its process executes it."""
        self._show_progress(self._run_dir.status_hint())

    def fail(self, reason: str, timed_out: bool = False) -> None:
        """It has ended without a result; recorded where its own process could not."""
        self._run_dir.fail(reason, timed_out=timed_out)
        claim.remove_leftovers(self._run_dir)
        self._show.failed(self.run, VitqError(reason))

    def _show_progress(self, status: Status | None) -> None:
        if status is None or status.state != "running" or status.attempt <= self._before:
            return
        progress = self._begin()
        if status.stage != self._stage or status.done < self._done:
            progress.stage(status.stage, status.total)
            self._stage, self._done = status.stage, 0
        progress.advance(status.done - self._done, status.note)
        self._done = status.done

    def _begin(self) -> Progress:
        if self._progress is None:
            self._progress = self._show.running(self.run)
        return self._progress


def ending(code: int) -> str:
    """What a process with this return code did: `ended with exit code 3`, `was ended by SIGTERM`."""
    if code >= 0:
        return f"ended with exit code {code}"
    memory = "; the kernel ends processes so when memory runs out" if code == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{memory}"
