"""One run of a store: the handle that the commands and the Python API share. It only reads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from vitq.config import RunConfig, signature
from vitq.config.labels import run_label
from vitq.errors import ConfigError, Problem, StoreError
from vitq.store import claim
from vitq.store.metrics import Metrics, score_name
from vitq.store.result import Result
from vitq.store.rundir import RunDir
from vitq.store.status import Status

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class JobState:
    """What a scheduler says of the job that a run was last given to: a hint, never the truth.

    ended: it will not start again; text: for people.
    """

    job: str
    ended: bool
    text: str


@dataclass(frozen=True)
class RunState:
    """The state of a run at one moment.

    run: its label. state: planned, running, done, failed, interrupted (told to stop, or its process is dead), or
    unreadable. stage: where it is, e.g. `reconstruct 120/600 blocks.3`. eta: seconds to the end of that stage, None
    where unknown. attempt: number of the last execution, 0 before the first. error: why there is no result, one line.
    timed_out: because of time limits. job: what the scheduler says of it, where it was asked. score, value: name and
    value, in percent, of the figure that runs of its task are compared by; '' where its config cannot be read, None
    before a result and where it is no number. top1: accuracy of a
    finished classifier, percent.
    """

    signature: str
    run: str
    state: str
    stage: str = ""
    eta: float | None = None
    updated_at: str | None = None
    attempt: int = 0
    error: str | None = None
    job: str | None = None
    timed_out: bool = False
    top1: float | None = None
    score: str = ""
    value: float | None = None


class Run:
    """One run of a store: its state, and what it left.

    Everything is read from the store when it is asked for; `read_state` reads the whole state at once.
    """

    def __init__(self, run_dir: RunDir, job: JobState | None = None):
        """job: what a scheduler says of the job that has the run."""
        self.dir, self.job = run_dir, job

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.dir.path)!r})"

    @property
    def signature(self) -> str:
        """16 hex digits; the name of its folder."""
        return self.dir.signature

    @cached_property
    def config(self) -> RunConfig:
        """The stored config. Raises StoreError where there is none, ConfigError where it was edited or planned by
        another version."""
        config, problems = self._parsed
        if config is None:
            raise ConfigError([problem.reworded(f"{self.dir.config_path}: {problem}") for problem in problems])
        if signature(config) != self.signature:
            text = f"{self.dir.config_path} has signature {signature(config)}, its folder says {self.signature}"
            why = "the file was edited, or planned by another version of vitq"
            action = "plan the run again with `vitq run` or `vitq sweep`"
            problem = Problem(f"{text}: {why}; {action}", "signature", signature(config), [self.signature])
            raise ConfigError([problem])
        return config

    @property
    def label(self) -> str:
        """Model, method and bits; '' where this version cannot parse the config. Raises StoreError without one."""
        config, _ = self._parsed
        return run_label(config) if config else ""

    @property
    def is_done(self) -> bool:
        """Whether a valid result is stored. Raises StoreError when the disk refuses to say."""
        return self.dir.is_done()

    @property
    def state(self) -> str:
        """planned, running, done, failed, interrupted (told to stop, or its process is dead), or unreadable."""
        return self.read_state().state

    @property
    def reason(self) -> str | None:
        """Why there is no result, one line."""
        return self.read_state().error

    @property
    def attempt(self) -> int:
        """Number of the last execution that began, 0 before the first."""
        return self.dir.attempt

    @property
    def result(self) -> Result | None:
        """The stored result, None when there is none. Raises StoreError when it is unreadable."""
        return self.dir.read_result()

    @property
    def metrics(self) -> Metrics | None:
        """Scores of the result, None when there is none. Raises StoreError when it is unreadable."""
        result = self.result
        return None if result is None else result.metrics

    @property
    def sites(self) -> pd.DataFrame:
        """One row a site, see `RunDir.write_sites`. Raises StoreError when they are absent or unreadable."""
        return self.dir.read_sites()

    @property
    def predictions(self) -> dict[str, np.ndarray]:
        """Arrays per evaluation image, see `RunDir.write_predictions`. Raises StoreError when they are absent."""
        return self.dir.read_predictions()

    @property
    def log(self) -> str:
        """What all attempts wrote, '' before the first. Raises StoreError when it cannot be read."""
        return self.dir.read_log()

    def read_state(self) -> RunState:
        """The state now. A run is done when its result is valid, and runs when a living process holds its claim.

        A claim that was taken on another machine cannot be checked at once (`vitq.store.claim`): where the scheduler
        says that its job has ended, the clock of that machine decides.
        """
        job = self.job.text if self.job else None
        try:
            label, (config, _) = self.label, self._parsed
            status = self._read_status()
            result = self.dir.read_result() if self.dir.is_done() else None
        except StoreError as error:
            return RunState(self.signature, "", "unreadable", error=str(error))
        if result is not None:
            updated_at, metrics = status.updated_at if status else None, result.metrics
            score, value = metrics.score
            return RunState(
                self.signature, label, "done", updated_at=updated_at, attempt=self.attempt, top1=metrics.top1,
                score=score, value=value,
            )  # fmt: skip
        name = score_name(config.task) if config else ""
        if status is None:
            return RunState(self.signature, label, "planned", job=job, score=name)
        if status.state == "done":
            lost = f"{self.dir.result_path} is missing or invalid; start the sweep again"
            return RunState(self.signature, label, "failed", error=lost, score=name)
        return RunState(
            self.signature, label, status.state, _stage(status), _eta(status) if status.state == "running" else None,
            status.updated_at, 0 if status.state == "planned" else status.attempt, status.error, job, status.timed_out,
            score=name,
        )  # fmt: skip

    @cached_property
    def _parsed(self) -> tuple[RunConfig | None, list[Problem]]:
        return RunConfig.parse(self.dir.read_config())

    def _read_status(self) -> Status | None:
        """The stored status; one that says `running` although no process holds the claim becomes `interrupted`.

        Raises StoreError when it is unreadable and the run has no result.
        """
        try:
            status = self.dir.read_status()
            while status is not None and status.state == "running" and not self._is_held():
                # Its process writes how it ended before it releases the claim: an unchanged status means that it died.
                latest = self.dir.read_status()
                if latest == status:
                    died = f"its process {status.pid} on {status.host} died; last sign of life {status.updated_at}"
                    return status.model_copy(update={"state": "interrupted", "error": died})
                status = latest
        except StoreError:
            if not self.dir.is_done():
                raise
            return None
        return status

    def _is_held(self) -> bool:
        if self.job is not None and self.job.ended and not claim.is_fresh(self.dir):
            return False
        return claim.is_held(self.dir)


def _stage(status: Status) -> str:
    count = f" {status.done}/{status.total}" if status.total else ""
    return f"{status.stage}{count} {status.note}".strip()


def _eta(status: Status) -> float | None:
    """Seconds left in this stage at the pace since it began, by the clock of the machine that wrote the status."""
    if not status.total or not status.done or status.stage_at is None:
        return None
    begin, now = (datetime.fromisoformat(t).astimezone(UTC) for t in (status.stage_at, status.updated_at))
    return (now - begin).total_seconds() / status.done * max(0, status.total - status.done)
