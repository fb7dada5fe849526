"""Processes that have vitq imported already: forked from a server that did so once, for each worker of pytest-xdist.

A new interpreter needs seconds until torch, timm and Hydra are there. Where the start itself is tested (`python -m
vitq.job`, a broken pipe), tests use `subprocess`.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("torch", "timm", "torchvision", "pandas", "safetensors.torch", "sklearn.datasets", "pytest"),
        *("vitq.job.worker", "vitq.job.measure", "vitq.planning.planner", "vitq.cli.execute", "vitq.models.load"),
        *("vitq.engine.evaluate", "vitq.engine.network_checks", "vitq.steps.reconstruction.reconstruct"),
    ]
)
_NUMBER = itertools.count()


class Forked:
    """`target(*args)` in a process of its own, which exits with what it returns; in `folder`, with the environment of
    the test and one torch thread.

    target: a function of a module, since it is found there by its name.
    """

    def __init__(self, folder: Path, target: Callable[..., int], *args: Any):
        self._streams = [folder / f".{next(_NUMBER)}.{stream}" for stream in ("out", "err")]
        words = (folder, dict(os.environ), self._streams, target, args)
        self._process = _CONTEXT.Process(target=_begin, args=words, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Exit code, −signal where one ended it; None while it lives."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """To the process, where it still lives."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float = 300) -> int:
        """Its exit code."""
        self._process.join(seconds)
        code = self.poll()
        assert code is not None, f"{self.pid} has not ended in {seconds} s: {self.err}"
        return code

    def wait_until(self, ready: Callable[[], object], seconds: float = 120) -> None:
        """Until something is true; an error where the process ends before, or takes longer."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.poll() is None, self.err
            assert time.monotonic() < deadline, self.err
            time.sleep(0.005)

    @property
    def out(self) -> str:
        """What it has printed."""
        return self._read(0)

    @property
    def err(self) -> str:
        """Its error stream."""
        return self._read(1)

    def _read(self, stream: int) -> str:
        path = self._streams[stream]
        return path.read_text() if path.exists() else ""


def _begin(
    folder: Path,
    environment: dict[str, str],
    streams: list[Path],
    target: Callable[..., int],
    args: tuple[Any, ...],
) -> None:
    import torch

    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.exit(target(*args))
