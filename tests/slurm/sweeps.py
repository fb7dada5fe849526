"""Sweeps for the cluster: of an engine that weighs nothing, in this process and in the jobs."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from vitq.planning import compose, planner
from vitq.planning.display import Show
from vitq.planning.launcher import launcher_of
from vitq.planning.plan import Plan
from vitq.store import Store

# What executes runs inside a job; `{fail}` is called with each config.
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


def make(repo: Path, folder: Path, *words: str, fail: str = "None", name: str = "test", **options: Any) -> Plan:
    """A committed plan of `launcher=slurm` whose jobs execute the fake engine."""
    script = folder / "worker.py"
    script.write_text(WORKER.format(repo=str(repo), fail=fail))
    file, roots = compose.root_config()
    asked = {"poll": 0.1, "ask": 1.0, "warning": 60, "time": 30, "mem": "100MB"} | options
    all_words = ["tracker=none", "launcher=slurm", *words]
    all_words += [f"++launcher.options.{key}={value}" for key, value in asked.items()]
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


@contextmanager
def launched(planned: Plan) -> Iterator[list[tuple[list[str], str]]]:
    """The launch in a thread; what it returned is in the list afterwards."""
    out: list[tuple[list[str], str]] = []
    thread = threading.Thread(target=lambda: out.append(launch(planned)), daemon=True)
    thread.start()
    yield out  # where this raises, the thread ends with the tests
    thread.join(90)
    assert not thread.is_alive(), "the launch goes on"


def until(ready: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for: {what}"
        time.sleep(0.05)


def tidy(store: Store) -> bool:
    """No claim and no temporary file is left, as soon as the last process has had the time to give them back."""
    until(lambda: not list(store.root.glob("*/claim*")), "no claim is left", 20)
    return not list(store.root.glob("**/*.tmp"))


def real(folder: Path, launcher: str, *words: str, name: str = "test", **options: Any) -> Plan:
    """A committed plan of the real engine: runs of a small random ViT of six blocks on the digits."""
    from safetensors.torch import save_file

    from tests.tiny import tiny

    kwargs = {"depth": 6, "img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3}
    checkpoint = folder / "tiny.safetensors"
    if not checkpoint.exists():
        save_file(tiny("vit", num_classes=10, depth=6).state_dict(), checkpoint)
    written = ", ".join(f"{key}: {value}" for key, value in kwargs.items())
    model = ["model=timm", "model.name=vit_tiny_patch16_224", f"model.kwargs={{{written}}}", "model.input_size=32"]
    file, roots = compose.root_config()
    all_words = ["tracker=none", f"launcher={launcher}", f"runs_dir={folder / launcher}", *model]
    all_words += [f"model.checkpoint={checkpoint}", f"cache_dir={folder / 'cache'}", "device=cpu", *words]
    if launcher == "slurm":
        options = {"poll": 0.1, "ask": 1.0, "warning": 60, "time": 30, "cpus": 1} | options
    all_words += [f"++launcher.options.{key}={value}" for key, value in options.items()]
    planned = planner.make(compose.load(file, roots, all_words, multirun=True), name=name)
    planned.commit()
    return planned


def facts(planned: Plan) -> dict[str, tuple[Any, ...]]:
    """All of each result that has to be equal wherever it was computed, bit for bit: predictions, and the model where
    it is kept."""
    found = {}
    for run in planned.runs:
        run_dir = planned.store.run(run.signature)
        result = run_dir.read_result()
        assert result is not None, run_dir.read_status()
        table = run_dir.read_sites().to_json(double_precision=15)
        model = run_dir.model_path.read_bytes() if run.config.keep_model else b""
        found[run.signature] = (result.metrics, result.size, table, run_dir.predictions_path.read_bytes(), model)
    return found
