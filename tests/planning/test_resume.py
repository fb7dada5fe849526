"""A real reconstruction that is killed on this machine goes on from its last finished segment and ends the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.slurm.sweeps import facts, real, tidy, until
from vitq.store import RunDir

# Eight segments; a kept model is compared byte for byte.
WORDS = ["method=qdrop", "bits=w4a4", "calib.size=32", "data.eval_limit=64", "method.iterations=60", "keep_model=true"]
SCRIPT = """
import sys
from pathlib import Path
from tests.slurm.sweeps import launch, real
failed, shown = launch(real(Path(sys.argv[1]), "inline", *sys.argv[2:]))
sys.exit(f"{failed} {shown}" if failed else 0)
"""


def start(folder: Path, cache: Path, repo: Path) -> subprocess.Popen[bytes]:
    env = os.environ | {"PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), *WORDS, f"cache_dir={cache}"], env=env)


def segments(run_dir: RunDir) -> dict[str, int]:
    """What is stored, and when that was."""
    return {path.name: path.stat().st_mtime_ns for path in run_dir.state_dir.glob("*.safetensors")}


def test_a_killed_run_goes_on_from_its_last_segment(tmp_path: Path, repo: Path) -> None:
    whole, cut, cache = tmp_path / "whole", tmp_path / "cut", tmp_path / "cache"
    for folder in (whole, cut):
        folder.mkdir()
    assert start(whole, cache, repo).wait(300) == 0
    (cut / "tiny.safetensors").write_bytes((whole / "tiny.safetensors").read_bytes())
    planned = real(cut, "inline", *WORDS, f"cache_dir={cache}")
    run_dir = planned.store.run(planned.runs[0].signature)

    process = start(cut, cache, repo)
    until(lambda: len(segments(run_dir)) >= 3 or process.poll() is not None, "three segments are stored")
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    before = segments(run_dir)
    assert 3 <= len(before) < 8

    process = start(cut, cache, repo)
    until(lambda: len(segments(run_dir)) > len(before) or process.poll() is not None, "the run goes on")
    now = segments(run_dir)
    assert now.items() > before.items(), "finished segments are not computed again"
    assert process.wait(300) == 0
    assert facts(planned) == facts(real(whole, "inline", *WORDS, f"cache_dir={cache}"))
    status = run_dir.read_status()
    assert status is not None
    assert (status.state, status.attempt) == ("done", 2)
    assert tidy(planned.store)
