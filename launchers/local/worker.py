"""A worker process of a slot on this machine, as its driver sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from typing import IO, NamedTuple

from vitq.errors import VitqError
from vitq.launchers.follow import FollowedRun, ending
from vitq.launchers.local.slots import LocalOptions
from vitq.planning.background import same_imports
from vitq.planning.display import Show
from vitq.planning.plan import Plan, PlannedRun

# How often a run under way is looked at, in seconds.
_WATCH = 0.5
# Seconds that a worker has to end after SIGTERM.
_GRACE = 10.0


class Ended(NamedTuple):
    """A run that a worker no longer executes. how: done, failed, cancelled (it alone was told to stop), busy (another
    process executes it), or died, with the reason: its process ended before the run did."""

    run: FollowedRun
    how: str
    reason: str = ""


class Worker:
    """A process that executes one run after another: signatures go in, a line comes back when one has ended.

    Whether a run is done is read from the store, never from that line. gone: the process has ended.
    """

    def __init__(self, plan: Plan, show: Show, options: LocalOptions, environment: dict[str, str]):
        self._plan, self._show = plan, show
        self.run: FollowedRun | None = None
        self.given, self.gone = 0, False
        group = ["--group", plan.name] if plan.name else []
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self.answers: IO[bytes] = os.fdopen(reading, "rb", buffering=0)
        self._process = subprocess.Popen(
            [*options.command, "--runs-dir", str(plan.store.root), *group, "--feed", str(writing)],
            env=os.environ | same_imports() | environment, pass_fds=[writing],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._errors,
            start_new_session=True,  # Ctrl-C reaches the driver alone, which then ends the workers
        )  # fmt: skip
        os.close(writing)
        self._unread = b""
        self._stderr_start, self._looked = 0, 0.0

    def give(self, run: PlannedRun) -> None:
        """The next run; the one before has ended."""
        self.run, self.given = FollowedRun(self._plan.store, self._show, run), self.given + 1
        self._stderr_start = self._errors.seek(0, os.SEEK_END)
        # look() notices a process that has ended already.
        with suppress(BrokenPipeError):
            self._input.write(f"{run.signature}\n".encode())
            self._input.flush()

    def look(self) -> Ended | None:
        """Show what has moved; how its run has ended, once."""
        answer = self.answers.read()
        if answer == b"":
            self._process.wait()
            # Ctrl-C does not reach it: who interrupts it means this run.
            cancelled = self._process.returncode == 128 + signal.SIGINT
            self.gone, word, reason = True, "cancelled" if cancelled else "died", self._reason()
            self._release()
        else:
            *lines, self._unread = (self._unread + (answer or b"")).split(b"\n")
            if not lines:
                if self.run is not None and time.monotonic() - self._looked > _WATCH:
                    self._looked = time.monotonic()
                    self.run.show_progress()
                return None
            _, word, *said = lines[-1].decode(errors="replace").split(" ", 2)
            reason = said[0] if said else "the worker says it is done, but no valid result is stored"
        run, self.run = self.run, None
        if run is None or word == "busy":
            return None if run is None else Ended(run, word)
        has_result = run.look(ended=True)
        if has_result is None and word == "died":
            return Ended(run, word, reason)
        if has_result is None and word == "cancelled":  # `vitq cancel SIGNATURE`: the run stays interrupted
            self._show.failed(run.run, VitqError("told to stop; `vitq retry` goes on from its last finished block"))
            return Ended(run, word)
        if has_result is None:
            run.fail(reason)
        return Ended(run, "done" if has_result else "failed")

    def close(self) -> None:
        """Nothing more is given: the process ends by itself."""
        with suppress(BrokenPipeError):
            self._input.close()

    def ended(self) -> bool:
        """Whether a closed one is gone."""
        if self._process.poll() is None:
            return False
        self._release()
        return True

    def stop(self) -> None:
        """End the process: by itself where it is idle, else by SIGTERM, at last by SIGKILL."""
        self.close()
        if self._process.poll() is None:
            if self.run is not None:
                os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._release()

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _release(self) -> None:
        self.close()
        self.answers.close()
        self._errors.close()

    def _reason(self) -> str:
        self._errors.seek(self._stderr_start)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        return f"the worker {ending(self._process.returncode)}, and this run has no result{last}"
