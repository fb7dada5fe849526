"""This process, one run after another."""

from __future__ import annotations

import os
import socket
import traceback

from vitq.launchers.base import LAUNCHERS
from vitq.plan import Plan
from vitq.result import Status
from vitq.show import Show
from vitq.store import RunDir


@LAUNCHERS.register("inline")
def launch(plan: Plan, show: Show) -> list[str]:
    """See Launcher. A failed run is recorded in its folder, shown, and the next one is started."""
    from vitq import track
    from vitq.job import execute

    failed = []
    trackers: dict[object, track.Tracker] = {}
    for run in plan.runs:
        run_dir = plan.store.run(run.signature)
        if run_dir.is_done():
            show.skipped(run)
            continue
        wanted = run.config.tracker
        if wanted not in trackers:
            trackers[wanted] = track.make(wanted)
        progress = show.running(run)
        try:
            result = execute(run_dir, progress, trackers[wanted], group=plan.name)
        except Exception as error:  # noqa: BLE001 - whatever stops one run must not stop the sweep
            _record(run_dir, error)
            show.failed(run, error)
            failed.append(run.signature)
        else:
            show.finished(run, result)
    return failed


def _record(run_dir: RunDir, error: Exception) -> None:
    """Failures inside a run are recorded by the job; this is for what fails before the job gets so far."""
    status = run_dir.status_hint()
    if status is not None and status.state == "failed":
        return
    text = "".join(traceback.format_exception(error))
    line = f"{type(error).__name__}: {error}"
    run_dir.write_status(Status(state="failed", error=line, traceback=text, pid=os.getpid(), host=socket.gethostname()))
    with run_dir.log_path.open("a", encoding="utf-8") as log:
        log.write(text)
