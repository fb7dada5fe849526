"""What a run records while it is executed: `status.json`, `log.txt`, and the seconds of its stages."""

from __future__ import annotations

import logging
import os
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from vitq import signals
from vitq.errors import brief
from vitq.job import provenance
from vitq.progress import Progress
from vitq.store import RunDir
from vitq.store.record import utc_now
from vitq.store.status import Status

# Seconds between two writes of status.json while a stage advances.
_STATUS_EVERY = 1.0


class RunLog(Progress):
    """Writes `status.json` and `log.txt` while it passes progress on, and keeps the seconds of each stage."""

    def __init__(self, run_dir: RunDir, listener: Progress):
        previous = run_dir.status_hint()
        self._run_dir, self._listener = run_dir, listener
        self.attempt = run_dir.attempt + 1
        self.started_at = utc_now()
        self.timings: dict[str, float] = {}
        self._part = ""
        self._begin = time.perf_counter()
        self._stage, self._done, self._note = "", 0, ""
        self._total: int | None = None
        self._stage_at: str | None = None
        self._written = 0.0
        self.planned_code = previous.code if previous is not None else None
        self.warnings = list(previous.warnings) if previous is not None else []
        self.ended = False
        self.note(f"attempt {self.attempt} on {socket.gethostname()}, pid {os.getpid()}")
        if changed := provenance.changed_code(self.planned_code):
            self.note(f"the code has changed since this run was planned: {changed}")
        for line in self.warnings:
            self.note(f"warning: {line}")

    def stage(self, name: str, total: int | None = None) -> None:
        self._stage, self._done, self._total, self._note = name, 0, total, ""
        self._stage_at = utc_now()
        self._listener.stage(name, total)
        self._write("running")
        self.note(name)

    def advance(self, units: int = 1, note: str = "") -> None:
        self._done += units
        self._note = note
        self._listener.advance(units, note)
        if time.monotonic() - self._written >= _STATUS_EVERY:
            self._write("running")

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Seconds of a part of the run, under `timings.stages`."""
        start, outer = time.perf_counter(), self._part
        self._part = name
        yield
        self._part = outer
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start

    def iterating(self) -> AbstractContextManager[None]:
        """`iterations.X` of the part `steps.X`, which holds them too."""
        return self.timed(self._part.replace("steps.", "iterations.", 1))

    def begin(self) -> None:
        """Start the clock: what is before belongs to the process, such as imports and the tracker's start."""
        self._begin = time.perf_counter()

    def total(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._begin

    def finish(self) -> None:
        self._write("done")
        self.note(f"done in {self.total():.1f} s")

    def note(self, text: str) -> None:
        """Add something to the log alone."""
        self._run_dir.append_log(f"{utc_now()} {text.rstrip()}\n")

    def warn(self, text: str) -> None:
        """Add something that a reader of the result should know, to the log and to the result."""
        if text not in self.warnings:  # an attempt before may have said so
            self.warnings.append(text)
        self.note(f"warning: {text}")

    @contextmanager
    def with_steps(self) -> Iterator[None]:
        """What the engine, which knows no run, warns of meanwhile is kept with the run's warnings."""
        logger, handler = logging.getLogger("vitq.steps"), _Kept(self)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def finish_probes(self) -> None:
        """The status says `done` again: probes have shown their own stages after the result."""
        self._write("done")

    def fail(self, error: BaseException) -> None:
        """Record why the run has no result: it failed, or was told to stop and can go on from its last block."""
        self.ended = True
        if isinstance(error, KeyboardInterrupt):
            signals.acknowledge()
            reason = str(error) or "told to stop by Ctrl-C"
            self._write("interrupted", error=reason)
            self.note(reason)
            return
        text = "".join(traceback.format_exception(error))
        self._write("failed", error=brief(error), traceback=text)
        self.note(text)

    def _write(self, state: str, error: str | None = None, traceback: str | None = None) -> None:
        self._written = time.monotonic()
        self._run_dir.write_status(
            Status(
                state=state,
                attempt=self.attempt,
                stage=self._stage,
                done=self._done,
                total=self._total,
                note=self._note,
                started_at=self.started_at,
                stage_at=self._stage_at,
                pid=os.getpid(),
                host=socket.gethostname(),
                error=error,
                traceback=traceback,
                code=self.planned_code,
                warnings=self.warnings,
            )
        )


class _Kept(logging.Handler):
    def __init__(self, run_log: RunLog):
        super().__init__(logging.WARNING)
        self._run_log = run_log

    def emit(self, record: logging.LogRecord) -> None:
        self._run_log.warn(record.getMessage())
