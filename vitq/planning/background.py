"""A driver of a sweep that goes on without the terminal it was started from."""

from __future__ import annotations

import json
import subprocess
import sys

from vitq.planning.plan import Plan
from vitq.store.atomic import make_dir


def start_driver(plan: Plan) -> str:
    """Start `vitq retry` of a committed sweep in a session of its own: no terminal takes it along. Returns its name."""
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
