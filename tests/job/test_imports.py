"""The seconds of a process's first run are those of its work: what it imports is imported before its clock starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.job.planner import Planner

# Executes a planned run and prints the modules that came in while its clock ran.
SCRIPT = """
import json, sys
from vitq.job import run_log, worker

begun = {}
begin, total = run_log.RunLog.begin, run_log.RunLog.total

def noted_begin(log):
    begun["modules"] = set(sys.modules)
    begin(log)

def noted_total(log):
    begun.setdefault("new", sorted(set(sys.modules) - begun["modules"]))
    return total(log)

run_log.RunLog.begin, run_log.RunLog.total = noted_begin, noted_total
code = worker.main(sys.argv[1:])
print(json.dumps(begun["new"]))
sys.exit(code)
"""

LEARNING: dict[str, Any] = {
    "name": "learns",
    "kinds": {"default": {"quantizer": "uniform"}},
    "steps": {
        "activations": {"do": "calibrate", "sites": "activations"},
        "weights": {"do": "calibrate", "sites": "weights"},
        "bits": {"do": "allocate", "policy": "milp", "widths": [3, 4, 5], "images": 4},
        "learn": {"do": "reconstruct", "iterations": 2, "batch_size": 4, "compile": "off"},
    },
}


@pytest.mark.parametrize("method", [None, LEARNING], ids=["closed form", "learns and allocates"])
def test_nothing_is_imported_while_the_clock_runs(tmp_path: Path, method: dict[str, Any] | None) -> None:
    planner = Planner(tmp_path)
    changed: dict[str, Any] = {} if method is None else {"method": method}
    run_dir = planner.plan(calib={"size": 8, "batch_size": 8}, **changed)
    command = [sys.executable, "-c", SCRIPT, "--runs-dir", str(planner.store.root), run_dir.signature]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    new = json.loads(ended.stdout.splitlines()[-1])
    assert not new, " ".join(new)
