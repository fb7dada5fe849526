"""chaos.py on a real SLURM cluster of two nodes: drivers, workers, whole jobs and whole nodes are killed at random.

    python benchmarks/chaos_slurm.py                      10 rounds, about 10 minutes; as root, with SLURM's packages
    python benchmarks/chaos_slurm.py --rounds 1 --json    prints {"rounds", "kills", "nodes", "runs", "lost", …}

The cluster is that of tests/slurm/. A node dies as a machine that loses power: its slurmd and everything it had started
get SIGKILL; it comes back after its jobs were queued again. What must hold afterwards is what chaos.py demands.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import chaos  # noqa: E402

from tests.slurm.cluster import NODES, Cluster, missing  # noqa: E402
from vitq import compose, plan  # noqa: E402
from vitq.store import Store  # noqa: E402

OPTIONS = {
    "runs_per_job": 4, "time": 30, "warning": 30, "cpus": 1, "poll": 0.1, "ask": 1.0, "max_retries": 1000,
}  # fmt: skip


class SlurmRound(chaos.Round):
    """A round whose workers run in jobs."""

    def __init__(self, place: Path, seed: int, cluster: Cluster):
        super().__init__(place, seed)
        self.cluster = cluster
        self.nodes = 0

    def play(self, kills: int) -> None:
        """See Round; the last kills are of nodes."""
        driver = self._start()
        self._until(lambda: list(self._workers()), "a worker")
        while self.kills < kills:
            time.sleep(self.random.uniform(0.1, 1.0))
            if driver.poll() is not None:
                break
            jobs = [process.pid for process in self._processes() if "vitq.launchers.allocation" in process.cmdline()]
            victims = [driver.pid, *jobs, *list(self._workers()) * 2]
            self._kill(self.random.choice(victims))
            if self.kills == 2:  # early: the sweep may be through before the last kill
                self._lose_node(self.random.choice(NODES))
            if driver.poll() is not None:
                driver = self._start()
        self._until(lambda: driver.poll() is not None, "the driver ends")
        driver = self._start()
        self._until(lambda: driver.poll() is not None, "the last driver ends")
        self._until(lambda: not list(self._processes()), "no process is left")

    def _lose_node(self, node: str) -> None:
        self.cluster.kill_node(node)
        self.kills += 1
        self.nodes += 1
        self.cluster.wait(lambda: "down" in self.cluster.states()[node], f"{node} is given up")
        self.cluster.start_node(node)

    def _until(self, ready: object, what: str) -> None:
        assert callable(ready)
        deadline = time.monotonic() + 120
        while not ready():
            self.cluster.hurry()
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited 120 s for: {what}")
            time.sleep(0.2)

    def _processes(self):  # type: ignore[no-untyped-def]
        mine = {os.getpid(), os.getppid()}
        for process in super()._processes():
            with suppress(psutil.NoSuchProcess):
                if process.pid not in mine and process.name() not in ("squeue", "sbatch"):
                    yield process


def prepare(place: Path) -> Store:
    """A planned sweep of `launcher=slurm`."""
    place.mkdir(parents=True)
    (place / "driver.py").write_text(chaos.DRIVER.replace('LAUNCHERS["local"]', 'LAUNCHERS["slurm"]'))
    (place / "worker.py").write_text(chaos.WORKER)
    file, roots = compose.root_config()
    words = [f"seed=range({chaos.RUNS})", "tracker=none", f"runs_dir={place}/runs", "launcher=slurm"]
    words += [f"++launcher.options.{key}={value}" for key, value in OPTIONS.items()]
    words.append(f"++launcher.options.command=['{sys.executable}','{place}/worker.py']")
    planned = plan.make(compose.load(file, roots, words, multirun=True), name=chaos.SWEEP)
    planned.commit()
    return planned.store


def main() -> int:
    """Calm sweep in local slots, rounds on the cluster, comparison, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the next one has the next")
    args = parser.parse_args()
    reason = missing()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    keys = ("rounds", "kills", "nodes", "runs", "lost", "duplicates", "left")
    total = dict.fromkeys(keys, 0)
    start = time.perf_counter()
    cluster = Cluster(accounting=False)
    with tempfile.TemporaryDirectory(prefix="vitq-chaos-") as folder:
        calm = chaos.prepare(Path(folder) / "calm")
        chaos.Round(Path(folder) / "calm", 0).play(kills=0)
        try:
            cluster.start()
            os.environ.update(cluster.env)
            for seed in range(args.seed, args.seed + args.rounds):
                place = Path(folder) / f"round{seed}"
                store = prepare(place)
                game = SlurmRound(place, seed, cluster)
                try:
                    game.play(kills=game.random.randint(5, 8))
                finally:
                    game.stop()
                    cluster.settle()
                wrong = chaos.compare(store, calm)
                total["rounds"] += 1
                total["kills"] += game.kills
                total["nodes"] += game.nodes
                total["runs"] += chaos.RUNS
                for key, names in wrong.items():
                    total[key] += len(names)
                    if names:
                        print(f"round {seed}: {key}: {', '.join(names)}", file=sys.stderr)
                if not args.json:
                    print(f"round {seed}: {game.kills} kills, {game.nodes} of them nodes", flush=True)
        finally:
            cluster.stop()
    found = total | {"seconds": round(time.perf_counter() - start)}
    print(json.dumps(found) if args.json else "\n".join(f"{key:<11}{value}" for key, value in found.items()))
    return 1 if total["lost"] or total["duplicates"] or total["left"] else 0


if __name__ == "__main__":
    sys.exit(main())
