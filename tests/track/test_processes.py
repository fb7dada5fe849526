"""Runs in forked children, and under real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.track.runs import (
    KEY,
    SITES,
    cores,
    execute,
    make_config,
    make_result,
    offline_runs,
    read_back,
    records,
    summary_in,
)
from vitq import track
from vitq.config import signature
from vitq.store import Store

ROOT = Path(__file__).parents[2]


def fork(work: Callable[[], object]) -> int:
    """Run `work()` in a forked child; its pid. The child leaves as a worker does: without Python's exit handlers."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def test_forked_children_mirror_their_runs_at_the_same_time(tmp_path: Path) -> None:
    """A warm parent forks a child for each run; some parents have imported wandb, none has started its service."""
    script = (
        "import os, sys, pathlib, tests.track.runs as t, tests.track.test_processes as p\n"
        "import torch, pandas, wandb\n"
        "torch.ones(64, 64) @ torch.ones(64, 64)\n"
        "children = [p.fork(lambda seed=seed: t.execute(t.make_config(pathlib.Path(sys.argv[1]), seed=seed)))\n"
        "            for seed in range(4)]\n"
        "assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4\n"
        "assert 'WANDB_SERVICE' not in os.environ\n"
        "t.execute(t.make_config(pathlib.Path(sys.argv[1]), seed=4))\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True, timeout=120)
    for seed in range(5):
        run = read_back(make_config(tmp_path, seed=seed))
        assert (run["exit_code"], run["summary"]["top1"], run["config"]["seed"]) == (0, 71.5, seed)


def test_a_child_of_a_process_that_tracks_has_a_service_of_its_own(tmp_path: Path) -> None:
    """The parent's open run and its service survive what a child does, and the child's run is whole."""
    script = (
        "import os, sys, pathlib, tests.track.runs as t, tests.track.test_processes as p\n"
        "from vitq import track\nfrom vitq.config import signature\nfrom vitq.store import Store\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "config = t.make_config(folder, seed=1)\n"
        "run_dir = Store(config.runs_dir).run(signature(config))\n"
        "with track.make(config.tracker).run(config, signature(config), 'demo', run_dir) as run:\n"
        "    child = p.fork(lambda: t.execute(t.make_config(folder, seed=2)))\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    run_dir.write_result(t.make_result(config))\n"
        "    run.result(t.make_result(config), t.SITES)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True, timeout=120)
    for seed in (1, 2):
        run = read_back(make_config(tmp_path, seed=seed))
        assert (run["exit_code"], run["summary"]["top1"], run["config"]["seed"]) == (0, 71.5, seed)


def started(folder: Path, handler: str) -> subprocess.Popen[bytes]:
    """A process inside a tracked run that waits for a signal, once its mirror's file holds the config."""
    script = (
        "import sys, time, signal, pathlib, tests.track.runs as t\n"
        "from vitq import track\nfrom vitq.config import signature\nfrom vitq.store import Store\n"
        f"{handler}\n"
        "config = t.make_config(pathlib.Path(sys.argv[1]))\n"
        "run_dir = Store(config.runs_dir).run(signature(config))\n"
        "with track.make(config.tracker).run(config, signature(config), 'demo', run_dir):\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not any(
        file.stat().st_size > 100 for path in offline_runs(make_config(folder)) for file in path.glob("*.wandb")
    ):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_sigterm_with_a_handler_is_a_failed_run(tmp_path: Path) -> None:
    process = started(tmp_path, "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    run = read_back(make_config(tmp_path))
    assert (run["state"], run["exit_code"]) == ("failed", 1)
    assert run["summary"]["error"] == "SystemExit: 143"


def test_a_killed_run_leaves_its_config_and_no_end(tmp_path: Path) -> None:
    """Without a handler nothing can be said in the end, but what the run was is there within two seconds."""
    process = started(tmp_path, "")
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    config = make_config(tmp_path)
    (folder,) = offline_runs(config)
    run = summary_in(folder)
    assert run["config"]["signature"] == signature(config)
    assert run.get("exit_code") is None or run["exit_code"] != 0
    assert not any(entry["type"] == "exit" and entry["exit"].get("exit_code") == 0 for entry in records(folder))
    execute(config)
    (newest,) = offline_runs(config)  # what the killed attempt left is superseded
    assert newest != folder
    assert summary_in(newest)["exit_code"] == 0


def test_a_service_that_gets_sigterm_with_the_job_costs_the_mirror_alone(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run_dir = Store(config.runs_dir).run(signature(config))
    with track.make(config.tracker).run(config, signature(config), None, run_dir) as run:
        run_dir.write_result(make_result(config))
        for core in cores():
            core.terminate()
            core.wait(10)
        run.result(make_result(config), SITES)
    assert run_dir.is_done()
    assert "W&B" in run_dir.log_path.read_text()


def test_a_whole_run_writes_the_key_nowhere(tmp_path: Path) -> None:
    """Records, caches, logs, W&B's files, home and both streams of a run executed as a launcher does it."""
    from tests.job.planner import Planner

    run_dir = Planner(tmp_path).plan("mse", tracker={"name": "wandb"}, calib={"size": 8, "batch_size": 8})
    (tmp_path / "home").mkdir()
    debug = {"WANDB_DEBUG": "true", "WANDB_CORE_DEBUG": "true"}  # W&B's own debug logs would hold it
    environment = {**os.environ, **debug, "WANDB_API_KEY": KEY, "HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "vitq.job", "--runs-dir", str(run_dir.path.parent), run_dir.signature]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=120)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY.encode() not in done.stdout + done.stderr
