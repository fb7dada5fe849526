"""Sweeps for the launchers that start processes: of an engine that weighs nothing, in this process and in theirs."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from vitq.planning import compose, planner
from vitq.planning.display import Show
from vitq.planning.launcher import launcher_of
from vitq.planning.plan import Plan

# What executes runs in a process of a launcher; `{fail}` is called with each config.
WORKER = """
import os, signal, sys, time
from pathlib import Path
import pytest
sys.path.insert(0, {repo!r})
from vitq.job import worker
from tests.fake_engine import FakeEngine
from vitq.job.run_log import RunLog
from vitq.progress import Progress
engine = FakeEngine(fail=lambda config: ({fail}))

def execute(run_dir, progress, tracker, group=None):
    run_log = RunLog(run_dir, Progress())
    run_log.stage("fake")
    try:
        engine.execute(run_dir, progress, tracker, group)
    except BaseException as error:
        run_log.fail(error)
        raise
    run_log.finish()

worker.execute = execute
sys.exit(worker.main(sys.argv[1:]))
"""


def make(
    repo: Path, folder: Path, launcher: str, *words: str, fail: str = "None", name: str = "test", **options: Any
) -> Plan:
    """A committed plan whose processes execute the fake engine. options: of the launcher."""
    script = folder / "worker.py"
    script.write_text(WORKER.format(repo=str(repo), fail=fail))
    file, roots = compose.root_config()
    all_words = ["tracker=none", f"launcher={launcher}", *words]
    all_words += [f"++launcher.options.{key}={value}" for key, value in options.items()]
    all_words.append(f"++launcher.options.command=['{sys.executable}','{script}']")
    planned = planner.make(compose.load(file, roots, all_words, multirun=True), name=name)
    planned.commit()
    return planned


def launch(planned: Plan) -> tuple[list[str], str]:
    """Blocking: what failed, and what was shown."""
    text = io.StringIO()
    with Show(Console(file=text, width=300), "test", len(planned.runs)) as show:
        failed = launcher_of(planned).launch(planned, show)
    return failed, text.getvalue()


def until(ready: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for: {what}"
        time.sleep(0.05)
