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
from vitq.planning import compose, planner  # noqa: E402
from vitq.store import Store, claim  # noqa: E402

OPTIONS = {
    "runs_per_job": 4, "time": 30, "warning": 30, "cpus": 1, "poll": 0.1, "ask": 1.0, "max_retries": 1000,
}  # fmt: skip


class SlurmRound(chaos.Round):
    """A round whose workers run in jobs."""

    def __init__(self, place: Path, seed: int, cluster: Cluster):
        super().__init__(place, seed)
        self.cluster = cluster
        self.nodes = 0
        self._dark: str | None = None  # the node without power

    def play(self, kills: int) -> None:
        """See Round; after the first kill a node dies, with all that it had."""
        driver = self._start()
        self._until(lambda: list(self._workers()), "a worker")
        while self.kills < kills:
            time.sleep(self.random.uniform(0.1, 1.0))
            self._power_up()
            if driver.poll() is not None:
                break
            jobs = [process.pid for process in self._processes() if "vitq.launchers.slurm.job" in chaos.words(process)]
            victims = [driver.pid, *jobs, *list(self._workers()) * 2]
            victim = self.random.choice(victims)
            self._kill(victim)
            if not self.nodes:  # early: the other kills meet a cluster that has lost it
                self._lose_node(self.random.choice(NODES))
            if victim == driver.pid:
                driver.wait()
                driver = self._start()
        if self._dark:
            self._until(self._down, f"{self._dark} is given up")
            self._power_up()
        self._until(lambda: driver.poll() is not None, "the driver ends")
        driver = self._start()
        self._until(lambda: driver.poll() is not None, "the last driver ends")
        self._until(lambda: not list(self._processes()), "no process is left")

    def _lose_node(self, node: str) -> None:
        self.cluster.kill_node(node)
        self.kills += 1
        self.nodes += 1
        self._dark = node

    def _down(self) -> bool:
        """Whether the controller has noticed that the dark node is gone."""
        return self._dark is not None and "down" in self.cluster.states()[self._dark]

    def _power_up(self) -> None:
        """Start the dark node once its jobs were queued again."""
        if not self._down():
            return
        node, self._dark = self._dark, None
        assert node is not None
        self.cluster.start_node(node)
        self.cluster.wait(lambda: "down" not in self.cluster.states()[node], f"{node} is back")
        # The controller now tells the node to end the jobs that it had lost. One of these, started there anew within
        # the same second, would be ended instead and stay RUNNING (seen with 22.05). SLURM's own delay of requeued jobs
        # is two minutes, which `hurry` takes away.
        time.sleep(3)

    def _until(self, ready: object, what: str) -> None:
        assert callable(ready)
        deadline = time.monotonic() + 120
        while not ready():
            self.cluster.hurry()
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited 120 s for: {what}\n{self._scene()}")
            time.sleep(0.2)

    def _scene(self) -> str:
        """What a wait that was too long looks like: queue, nodes, processes, unfinished runs, last words of drivers."""
        store = Store(self.place / "runs")
        runs = [store.run(name) for name in store.signatures()]
        log = self.place / "driver.log"
        return "\n".join(
            [
                self.cluster.run("squeue", "-r", "-t", "all", "-o", "%i %T %r %S %k", check=False),
                self.cluster.run("sinfo", "-N", "-o", "%N %t %E", check=False),
                *(f"{process.pid} {' '.join(chaos.words(process))}" for process in self.cluster.processes()),
                *(f"{process.pid} {' '.join(chaos.words(process))}" for process in self._processes()),
                *(f"{run.signature} {run.status_hint()} {claim.read(run)}" for run in runs if not run.is_done()),
                log.read_text()[-3000:] if log.exists() else "",
                self.cluster.logs(lines=200),
            ]
        )

    def _processes(self):  # type: ignore[no-untyped-def]
        mine = {os.getpid(), os.getppid()}
        for process in super()._processes():
            with suppress(psutil.Error):
                if process.pid not in mine and process.name() not in ("squeue", "sbatch"):
                    yield process


def slow(worker: str) -> str:
    """Stages of 0.4 s: a job takes seconds to start, and the sweep must not be through before the kills are done."""
    assert worker.count("time.sleep(0.02") == 1
    return worker.replace("time.sleep(0.02", "time.sleep(0.4")


def prepare(place: Path) -> Store:
    """A planned sweep of `launcher=slurm`."""
    place.mkdir(parents=True)
    (place / "driver.py").write_text(chaos.DRIVER)
    (place / "worker.py").write_text(slow(chaos.WORKER))
    file, roots = compose.root_config()
    words = [f"seed=range({chaos.RUNS})", "tracker=none", f"runs_dir={place}/runs", "launcher=slurm"]
    words += [f"++launcher.options.{key}={value}" for key, value in OPTIONS.items()]
    words.append(f"++launcher.options.command=['{sys.executable}','{place}/worker.py']")
    planned = planner.make(compose.load(file, roots, words, multirun=True), name=chaos.SWEEP)
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
