"""Faults of W&B, made visible and harmless."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from vitq.store.record import utc_now
from vitq.store.rundir import RunDir

LOG = logging.getLogger("vitq.track")


def redacted(text: str) -> str:
    """`text` without the API key of this process, on one line."""
    key = os.environ.get("WANDB_API_KEY")
    line = " ".join(text.split())
    return line.replace(key, "***") if key else line


class Warner:
    """Makes a fault of W&B visible: in the run's log, and on the logger for whoever watches."""

    def __init__(self, run_dir: RunDir):
        self._run_dir = run_dir
        self.error: Exception | None = None

    def __call__(self, operation: str, error: Exception, effect: str) -> None:
        reason = redacted(f"{type(error).__name__}: {error}")
        line = f"W&B: {operation} failed ({reason}); {effect}. The record in {self._run_dir.path} is not affected"
        LOG.warning("%s: %s", self._run_dir.signature, line)
        try:
            self._run_dir.path.mkdir(parents=True, exist_ok=True)
            with self._run_dir.log_path.open("a", encoding="utf-8") as log:
                log.write(f"{utc_now()} WARNING {line}\n")
        except OSError as fault:
            LOG.warning("%s: cannot write %s: %s", self._run_dir.signature, self._run_dir.log_path, fault)

    @contextmanager
    def guard(self, operation: str, effect: str) -> Iterator[Warner]:
        """Whatever W&B raises inside becomes a warning."""
        self.error = None
        try:
            yield self
        except Exception as error:  # noqa: BLE001 - W&B documents no base class, and the run must go on
            self.error = error
            self(operation, error, effect)
