"""A short round of benchmarks/chaos_slurm.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_a_round_loses_nothing_and_does_nothing_twice(repo: Path) -> None:
    command = [sys.executable, str(repo / "benchmarks" / "chaos_slurm.py"), "--rounds", "1", "--seed", "3", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["runs"], found["nodes"]) == (20, 1)
    assert found["kills"] >= 5
    assert (found["lost"], found["duplicates"], found["left"]) == (0, 0, 0)
