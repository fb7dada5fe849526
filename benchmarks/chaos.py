"""Random SIGKILLs of driver and workers during a sweep of 20 runs: what is lost, and what is done twice.

    python benchmarks/chaos.py                       50 rounds, about 20 minutes
    python benchmarks/chaos.py --rounds 2 --json     prints {"rounds", "kills", "runs", "lost", "duplicates", …}

Driver, workers, claims and records are the real ones; the engine between them computes a result out of the signature in
a few stages of 20 to 60 ms, so that most kills meet a run that is under way or a file that is being written. In each
round 4 to 8 processes are killed at random moments, the driver among them and started again, sometimes two drivers at
once; then it may finish. Afterwards every run must have exactly one valid result, equal to the undisturbed sweep's,
none may have been finished twice, and no claim, temporary file, resume state or process may be left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from vitq.store import Store
from vitq.store.cleanup import garbage

RUNS = 20
SWEEP = "chaos"
# Seconds that a driver or a worker may take to end by itself: a disk that is flushing gigabytes stalls every write.
PATIENCE = 400

# The driver of a stored sweep, as `vitq retry` is one, without planning; and the worker it starts.
DRIVER = """\
import sys
from rich.console import Console
from vitq.errors import VitqError
from vitq.planning.launcher import launcher_of
from vitq.planning.display import Show
from vitq.store import Store
from vitq.planning.resume import stored_plan

try:
    plan = stored_plan(Store(sys.argv[1]), sys.argv[2])
except VitqError:
    sys.exit(0)  # nothing is left to do
with open(sys.argv[1] + "/../driver.log", "a") as log, Show(Console(file=log), "chaos", len(plan.runs)) as show:
    sys.exit(1 if launcher_of(plan).launch(plan, show) else 0)
"""
WORKER = """\
import sys, time
import numpy as np
import pandas as pd
from vitq.job import execute, worker
from vitq.store.records import Memory, Metrics, Provenance, Result, Size, Timings, utc_now

def computed(config, run_dir, run_log):
    number = int(run_dir.signature, 16)
    for stage in range(3):
        run_log.stage(f"stage {stage}", 1)
        time.sleep(0.02 + (number >> (8 * stage)) % 40 / 1000)
        run_log.advance()
        run_dir.state_dir.mkdir(parents=True, exist_ok=True)
        (run_dir.state_dir / f"{stage}.bin").write_bytes(b"state")
    score = number % 10000 / 100
    sites = {"site": "head.input", "kind": "head", "shape": "1x1", "elements": 1, "quantizer": "uniform",
             "granularity": "tensor", "bits": 4, "mse": score, "sqnr_db": 1.0}
    sites = pd.DataFrame([sites])
    run_dir.write_sites(sites)
    run_dir.write_predictions({
        "correct": np.ones(1, bool), "label": np.zeros(1, np.int64), "topk_index": np.zeros((1, 1), np.int32),
        "topk_logit": np.full((1, 1), score, np.float32)})
    result = Result(
        signature=run_dir.signature, config=config.to_dict(),
        metrics=Metrics(top1=score, top5=100.0, nll=0.0, fp_top1=100.0, drop=100 - score, agreement=score, kl=0.0,
                        n_eval=1),
        size=Size(mean_weight_bits=4, mean_activation_bits=4, fp_bytes=1, quantized_bytes=1),
        timings=Timings(total=run_log.total(), stages={}), memory=Memory(peak_rss_bytes=1, peak_cuda_bytes=None),
        provenance=Provenance(versions={}, host={}, code={}, started_at=run_log.started_at, finished_at=utc_now(),
                              attempt=run_log.attempt))
    return result, sites, None

execute._measure = computed
sys.exit(worker.main())
"""


class Round:
    """One sweep under fire, in a folder of its own."""

    def __init__(self, place: Path, seed: int):
        self.place, self.random = place, random.Random(seed)
        self.kills = 0
        self.errors = place / "driver.err"
        self._drivers: list[subprocess.Popen[bytes]] = []

    def play(self, kills: int) -> None:
        """Until the sweep is finished; at most `kills` processes die on the way. Raises RuntimeError when it is not."""
        self._start()
        while self.kills < kills:
            time.sleep(self.random.uniform(0.05, 0.7))
            alive = [driver for driver in self._drivers if driver.poll() is None]
            if not alive:
                break
            workers = list(self._workers())
            victim = self.random.choice([driver.pid for driver in alive] + workers * 2)
            self._kill(victim)
            if victim in [driver.pid for driver in alive]:
                for _ in range(self.random.choice((1, 1, 2))):
                    self._start()
        # Whoever is left may finish; then one more, undisturbed, finds nothing or the rest.
        for driver in self._drivers:
            driver.wait(PATIENCE)
        self._start().wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while list(self._processes()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes are left: {[words(p) for p in self._processes()]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Nothing outlives a round that went wrong."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(self.place / "driver.py"), str(self.place / "runs"), SWEEP]
        with self.errors.open("ab") as errors:
            driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        self._drivers.append(driver)
        return driver

    def _kill(self, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.kills += 1

    def _workers(self) -> Iterator[int]:
        """Workers, those whose driver is dead included."""
        for process in self._processes():
            if str(self.place / "worker.py") in words(process):
                yield process.pid

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and any(str(self.place) in word for word in words(process)):
                    yield process


def words(process: psutil.Process) -> list[str]:
    """Its command line; [] where it has ended meanwhile."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def prepare(place: Path) -> Store:
    """A planned sweep in a store of its own, and the two scripts."""
    from vitq.planning import compose, planner

    place.mkdir(parents=True)
    (place / "driver.py").write_text(DRIVER)
    (place / "worker.py").write_text(WORKER)
    file, roots = compose.root_config()
    words = [f"seed=range({RUNS})", "tracker=none", f"runs_dir={place}/runs", "launcher=local"]
    words += ["launcher.options.slots=2", "launcher.options.threads=1", "launcher.options.max_retries=1000"]
    words.append(f"launcher.options.command=['{sys.executable}','{place}/worker.py']")
    planned = planner.make(compose.load(file, roots, words, multirun=True), name=SWEEP)
    planned.commit()
    return planned.store


def compare(store: Store, calm: Store) -> dict[str, list[str]]:
    """What is wrong with a store after its round."""
    found: dict[str, list[str]] = {"lost": [], "duplicates": [], "left": []}
    for name in calm.read_sweep(SWEEP).signatures:
        run, other = store.run(name), calm.run(name)
        mine, reference = run.read_result() if run.is_done() else None, other.read_result()
        same = (
            mine is not None and reference is not None and mine.metrics == reference.metrics
            and run.predictions_path.read_bytes() == other.predictions_path.read_bytes()
            and run.read_sites().equals(other.read_sites())
        )  # fmt: skip
        if not same:
            found["lost"].append(name)
        if run.read_log().count(" done in ") > 1:
            found["duplicates"].append(name)
        found["left"] += [str(path) for path in run.path.glob("claim*")] + (
            [str(run.state_dir)] * run.state_dir.exists()
        )
    # Logs of finished jobs may go, too, but nobody's death left them.
    logs = store.submissions.path
    found["left"] += [str(item.path) for item in garbage(store) if item.path.parent != logs]
    return found


def told(store: Store, game: Round) -> str:
    """What runs and drivers say of themselves, for a round that went wrong."""
    logs = [f"{name}:\n{store.run(name).read_log()}" for name in store.read_sweep(SWEEP).signatures]
    return "\n".join([f"{game.kills} kills", *logs, "drivers:", game.errors.read_text(encoding="utf-8")])


def main() -> int:
    """Calm sweep, rounds, comparison, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the next one has the next")
    args = parser.parse_args()
    total: dict[str, int] = {"rounds": 0, "kills": 0, "runs": 0, "lost": 0, "duplicates": 0, "left": 0}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="vitq-chaos-") as folder:
        calm = prepare(Path(folder) / "calm")
        Round(Path(folder) / "calm", 0).play(kills=0)
        for seed in range(args.seed, args.seed + args.rounds):
            place = Path(folder) / f"round{seed}"
            store = prepare(place)
            game = Round(place, seed)
            try:
                game.play(kills=game.random.randint(4, 8))
            except (subprocess.TimeoutExpired, RuntimeError):
                print(f"round {seed}: {told(store, game)}", file=sys.stderr)
                raise
            finally:
                game.stop()
            wrong = compare(store, calm)
            total["rounds"] += 1
            total["kills"] += game.kills
            total["runs"] += RUNS
            for key, names in wrong.items():
                total[key] += len(names)
                if names:
                    print(f"round {seed}: {key}: {', '.join(names)}", file=sys.stderr)
            if any(wrong.values()):
                print(told(store, game), file=sys.stderr)
            if not args.json:
                print(f"round {seed}: {game.kills} kills", flush=True)
    found = total | {"seconds": round(time.perf_counter() - start)}
    print(json.dumps(found) if args.json else "\n".join(f"{key:<11}{value}" for key, value in found.items()))
    return 1 if total["lost"] or total["duplicates"] or total["left"] else 0


if __name__ == "__main__":
    sys.exit(main())
