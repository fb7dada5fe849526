"""Runs that other processes execute, as far as the store tells: progress, results, failures."""

from __future__ import annotations

from vitq.errors import VitqError
from vitq.planning.display import Show
from vitq.planning.plan import PlannedRun
from vitq.progress import Progress
from vitq.store import Store, claim
from vitq.store.records import Status


class Follower:
    """Passes on the progress of a run as its process has recorded it."""

    def __init__(self) -> None:
        self._stage, self._done = "", 0

    def follow(self, status: Status, progress: Progress) -> None:
        """A new stage, or more of it done."""
        if status.stage != self._stage or status.done < self._done:
            progress.stage(status.stage, status.total)
            self._stage, self._done = status.stage, 0
        progress.advance(status.done - self._done, status.note)
        self._done = status.done


class FollowedRun:
    """One run that another process executes, and how it ends. Failures recorded before `begin_anew` are ignored."""

    def __init__(self, store: Store, show: Show, run: PlannedRun):
        self.run = run
        self._show, self._run_dir = show, store.run(run.signature)
        self._progress: Progress | None = None
        self._follower = Follower()
        self._before = self._run_dir.attempt

    def begin_anew(self) -> None:
        """It is handed to another process: failures recorded before this point are ignored."""
        self._before = self._run_dir.attempt

    def look(self) -> bool | None:
        """True: it has its result; False: it failed; None: neither, and what moved was shown."""
        status = self._run_dir.status_hint()
        # Status first: a run whose status says done has its result by now.
        if (status is None or status.state != "running") and self._run_dir.is_done():
            self._begin()
            result = self._run_dir.read_result()
            if result is not None:
                self._show.finished(self.run, result)
            return True
        if status is None or status.attempt <= self._before:
            return None
        if status.state == "failed":
            self.fail(status.error or "no reason was recorded")
            return False
        if status.state == "running":
            self._follower.follow(status, self._begin())
        return None

    def fail(self, reason: str, timed_out: bool = False) -> None:
        """It has ended without a result; recorded where its own process could not."""
        self._run_dir.fail(reason, timed_out=timed_out)
        claim.remove_leftovers(self._run_dir)
        self._show.failed(self.run, VitqError(reason))

    def _begin(self) -> Progress:
        if self._progress is None:
            self._progress = self._show.running(self.run)
        return self._progress
