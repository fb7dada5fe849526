"""A short round of benchmarks/chaos.py, and the launch overhead's benchmark on a few runs: both run in full by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def benchmark(repo: Path, name: str, *words: str) -> dict[str, Any]:
    command = [sys.executable, str(repo / "benchmarks" / name), "--json", *words]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_killed_drivers_and_workers_lose_nothing(repo: Path) -> None:
    found = benchmark(repo, "chaos.py", "--rounds", "1", "--seed", "7")
    assert (found["rounds"], found["runs"]) == (1, 20)
    assert found["kills"] >= 4
    assert (found["lost"], found["duplicates"], found["left"]) == (0, 0, 0)


@pytest.mark.slow
def test_runs_that_compute_nothing_all_end(repo: Path) -> None:
    found = benchmark(repo, "launch_overhead.py", "--runs", "8")
    assert (found["done"], found["failed"]) == (8, 0)
