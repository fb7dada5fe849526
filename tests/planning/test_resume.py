"""A real reconstruction that is killed on this machine goes on from its last finished segment and ends the same."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.fake_worker import launch
from tests.forked import Forked
from tests.slurm.sweeps import facts, real, tidy
from vitq.store import RunDir

# Eight segments; a kept model is compared byte for byte.
WORDS = ["method=qdrop", "bits=w4a4", "calib.size=32", "data.eval_limit=64", "method.iterations=30", "keep_model=true"]


def execute(folder: Path, cache: Path) -> int:
    failed, shown = launch(real(folder, "inline", *WORDS, f"cache_dir={cache}"))
    print(failed, shown, file=sys.stderr)
    return len(failed)


def segments(run_dir: RunDir) -> dict[str, int]:
    """What is stored, and when that was."""
    return {path.name: path.stat().st_mtime_ns for path in run_dir.state_dir.glob("*.safetensors")}


def test_a_killed_run_goes_on_from_its_last_segment(tmp_path: Path) -> None:
    whole, cut, cache = tmp_path / "whole", tmp_path / "cut", tmp_path / "cache"
    for folder in (whole, cut):
        folder.mkdir()
    first = Forked(tmp_path, execute, whole, cache)
    assert first.wait() == 0, first.err
    (cut / "tiny.safetensors").write_bytes((whole / "tiny.safetensors").read_bytes())
    planned = real(cut, "inline", *WORDS, f"cache_dir={cache}")
    run_dir = planned.store.run(planned.runs[0].signature)

    process = Forked(tmp_path, execute, cut, cache)
    process.wait_until(lambda: len(segments(run_dir)) >= 3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = segments(run_dir)
    assert 3 <= len(before) < 8

    process = Forked(tmp_path, execute, cut, cache)
    process.wait_until(lambda: len(segments(run_dir)) > len(before))
    now = segments(run_dir)
    assert now.items() > before.items(), "finished segments are not computed again"
    assert process.wait() == 0, process.err
    assert facts(planned) == facts(real(whole, "inline", *WORDS, f"cache_dir={cache}"))
    status = run_dir.read_status()
    assert status is not None
    assert (status.state, status.attempt) == ("done", 2)
    assert tidy(planned.store)
