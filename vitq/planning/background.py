"""A driver of a sweep that goes on without the terminal it was started from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from vitq.planning.plan import Plan
from vitq.store.atomic import make_dir


def same_imports() -> dict[str, str]:
    """The environment in which another Python of this installation imports what this one does.

    `python -m` alone puts the folder first in which it is started: beside a checkout of timm it would be another timm.
    Folders that a program has appended to `sys.path` come along where they hide no module of Python.
    """
    plain = _plain_path()
    first = next((number for number, entry in enumerate(sys.path) if entry in plain), len(sys.path))
    # Every Python that a script starts (here the command `vitq`) has the folder of that script first.
    own = [entry for entry in sys.path if entry not in plain and entry != sysconfig.get_path("scripts")]
    behind = [entry for entry in sys.path[first:] if entry in own and (not os.path.isdir(entry) or _hides(entry))]
    paths = [os.path.abspath(entry) for entry in own if entry not in behind]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


@cache
def _plain_path() -> frozenset[str]:
    """`sys.path` of a Python that nobody told anything."""
    command = [sys.executable, "-P", "-c", "import sys; print(*sys.path, sep='\\0', end='')"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return frozenset(os.fsdecode(done.stdout).split("\0"))


def _hides(entry: str) -> bool:
    """Whether a folder ahead of Python's own modules would hide one of them."""
    return any(path.stem in sys.stdlib_module_names for path in Path(entry).iterdir())


def start_driver(plan: Plan) -> str:
    """Start `vitq retry` of a committed sweep in a session of its own: no terminal takes it along. Returns its name."""
    command = ["retry", str(plan.name), "--runs-dir", str(plan.store.root)]
    # What this plan says, not what the store says by the time: some of the runs, and a launcher of its own.
    command += [run.signature for run in plan.runs if not plan.store.run(run.signature).is_done()]
    options = plan.launcher.options.items()
    command += [f"launcher={plan.launcher.name}", *(f"launcher.options.{k}={json.dumps(v)}" for k, v in options)]
    return start_detached(command, plan.store.sweep_folder(str(plan.name)) / "driver.log")


def start_detached(words: Sequence[str], log: Path) -> str:
    """Start `vitq WORDS` in a session of its own, which writes to `log`. Returns its name."""
    make_dir(log.parent)
    with log.open("ab") as out:
        driver = subprocess.Popen(
            [sys.executable, "-m", "vitq", *words],
            env=os.environ | same_imports(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return f"process {driver.pid} in the background ({log})"
