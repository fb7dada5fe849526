"""Where a run stands, read from the store alone: what `vitq status` shows and the other commands act on."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from vitq.config import RunConfig
from vitq.config.labels import run_label
from vitq.errors import StoreError
from vitq.store import RunDir, claim
from vitq.store.records import Status


@dataclass(frozen=True)
class Standing:
    """state: planned, running, done, failed, interrupted (told to stop, or its process is gone) or
    unreadable.

    stage: where it is, e.g. `reconstruct 120/600 blocks.3`. eta: seconds to the end of that stage, None where unknown.
    error: why there is no result, one line. timed_out: because of time limits.
    job: what the scheduler says of it, where it was asked.
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


def standing(run_dir: RunDir, job: str | None = None, job_ended: bool = False) -> Standing:
    """Only the result says that a run is done; its status is a hint.

    job, job_ended: what the scheduler says of the job that has the run, a hint too: a run that seems to run is
    interrupted where its job has ended and nobody gives a sign of life.
    """
    try:
        config, _ = RunConfig.parse(run_dir.read_config())
        label = run_label(config) if config else ""
        status = run_dir.read_status()
    except StoreError as error:
        return Standing(run_dir.signature, "", "unreadable", error=str(error))
    state: str = "planned" if status is None else status.state
    if run_dir.is_done():
        return Standing(run_dir.signature, label, "done", updated_at=status.updated_at if status else None)
    if state == "done":
        lost = f"{run_dir.result_path} is missing or invalid; start the sweep again"
        return Standing(run_dir.signature, label, "failed", error=lost)
    if status is None:
        return Standing(run_dir.signature, label, state, job=job)
    if state == "running" and (is_gone(status.pid, status.host) or (job_ended and not _beats(run_dir))):
        state = "interrupted"
    return Standing(
        run_dir.signature, label, state, _stage(status), _eta(status) if state == "running" else None,
        status.updated_at, status.attempt, status.error, job, status.timed_out,
    )  # fmt: skip


def _beats(run_dir: RunDir) -> bool:
    holder = claim.read(run_dir)
    if holder is None or claim.is_dead(holder, run_dir.claim_path):
        return False
    with suppress(OSError):
        return time.time() - run_dir.claim_path.stat().st_mtime < claim.SILENCE
    return False


def is_gone(pid: int | None, host: str | None) -> bool:
    """True when the process of a run was on this machine and no longer exists; on others nobody can tell from here."""
    import psutil

    return pid is not None and host == socket.gethostname() and not psutil.pid_exists(pid)


def _stage(status: Status) -> str:
    count = f" {status.done}/{status.total}" if status.total else ""
    return f"{status.stage}{count} {status.note}".strip()


def _eta(status: Status) -> float | None:
    """Seconds left in this stage at the pace since it began, by the clock of the machine that wrote the status."""
    if not status.total or not status.done or status.stage_at is None:
        return None
    begin, now = (datetime.fromisoformat(t).astimezone(UTC) for t in (status.stage_at, status.updated_at))
    return (now - begin).total_seconds() / status.done * max(0, status.total - status.done)
