"""`--detach`: a sweep that goes on without the terminal it was started from."""

from __future__ import annotations

import json
import subprocess
import sys

from vitq.launchers import arrays
from vitq.plan import Plan
from vitq.show import Show
from vitq.store.atomic import make_dir


def detach(plan: Plan, show: Show) -> str:
    """Leave a committed sweep to the scheduler, or to a driver in the background. Returns what to tell."""
    assert plan.name is not None
    if all(plan.store.run(run.signature).is_done() for run in plan.runs):
        return "all runs are finished"
    if plan.launcher.name == "slurm":
        left = arrays.submit(plan, show)
        if not left:
            return "all runs are in the queue of the scheduler"
        return f"the cluster does not accept {left} of the runs yet; {_start(plan)} submits them when it does"
    return f"{_start(plan)} executes the runs"


def _start(plan: Plan) -> str:
    """A driver in a session of its own: no terminal takes it along."""
    log = plan.store.sweep_folder(str(plan.name)) / "driver.log"
    make_dir(log.parent)
    command = [sys.executable, "-m", "vitq", "retry", str(plan.name), "--runs-dir", str(plan.store.root)]
    # What this plan says, not what the store says by the time: some of the runs, and a launcher of its own.
    command += [run.signature for run in plan.runs if not plan.store.run(run.signature).is_done()]
    options = plan.launcher.options.items()
    command += [f"launcher={plan.launcher.name}", *(f"launcher.options.{k}={json.dumps(v)}" for k, v in options)]
    with log.open("ab") as out:
        driver = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    return f"process {driver.pid} in the background ({log})"
