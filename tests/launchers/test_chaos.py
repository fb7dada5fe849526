"""A short round of benchmarks/chaos.py, and the launch overhead's benchmark on a few runs: both run in full by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Benchmark = Callable[..., dict[str, Any]]


@pytest.mark.slow
def test_killed_drivers_and_workers_lose_nothing(benchmark: Benchmark) -> None:
    found = benchmark("chaos.py", "--rounds", "1", "--seed", "7")
    assert (found["rounds"], found["runs"]) == (1, 20)
    assert found["kills"] >= 4
    assert (found["lost"], found["duplicates"], found["left"]) == (0, 0, 0)


@pytest.mark.slow
def test_runs_that_compute_nothing_all_end(benchmark: Benchmark) -> None:
    found = benchmark("launch_overhead.py", "--runs", "8")
    assert (found["done"], found["failed"]) == (8, 0)
