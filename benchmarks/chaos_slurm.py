"""chaos.py on a real SLURM cluster of two nodes: drivers, workers, whole jobs and whole nodes are killed at random.

    python benchmarks/chaos_slurm.py                      10 rounds, about 10 minutes; as root, with SLURM's packages
    python benchmarks/chaos_slurm.py --rounds 1 --json    prints {"rounds", "kills", "nodes", "runs", "lost", …}

The cluster is that of tests/slurm/. A node dies as a machine that loses power: its slurmd and everything it had started
get SIGKILL; it comes back after its jobs were queued again. What must hold afterwards is what chaos.py demands.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import chaos  # noqa: E402

from tests.slurm.cluster import NODES, Cluster, missing  # noqa: E402
from vitq.store import Store, claim  # noqa: E402

OPTIONS = {
    "runs_per_job": 4, "time": 30, "warning": 30, "cpus": 1, "poll": 0.1, "ask": 1.0, "max_retries": 1000,
}  # fmt: skip


class SlurmRound(chaos.ChaosRound):
    """A round whose workers run in jobs."""

    def __init__(self, folder: Path, seed: int, cluster: Cluster):
        super().__init__(folder, seed)
        self.cluster = cluster
        self.nodes = 0
        self._dark: str | None = None  # the node without power

    def play(self, kills: int) -> None:
        """See ChaosRound; after the first kill a node dies, with all that it had."""
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

    def counts(self) -> dict[str, int]:
        return {"kills": self.kills, "nodes": self.nodes}

    def stop(self) -> None:
        super().stop()
        self.cluster.settle()

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
        # The controller now asks the node to end the jobs that it had lost. One of these, started there anew within
        # the same second, would be ended instead and stay RUNNING (seen with 22.05). SLURM's own delay of requeued jobs
        # is two minutes, which `hurry` takes away.
        time.sleep(3)

    def _until(self, ready: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 120
        while not ready():
            self.cluster.hurry()
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited 120 s for: {what}\n{self._scene()}")
            time.sleep(0.2)

    def _scene(self) -> str:
        """The state after too long a wait: queue, nodes, processes, unfinished runs, end of the drivers' log."""
        store = Store(self.folder / "runs")
        runs = [store.run(name) for name in store.signatures()]
        log = self.folder / "driver.log"
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

    def _processes(self) -> Iterator[psutil.Process]:
        own = {os.getpid(), os.getppid()}
        for process in super()._processes():
            with suppress(psutil.Error):
                if process.pid not in own and process.name() not in ("squeue", "sbatch"):
                    yield process


@contextmanager
def running(cluster: Cluster) -> Iterator[None]:
    """The cluster, and the variables by which SLURM's commands find it."""
    try:
        cluster.start()
        os.environ.update(cluster.env)
        yield
    finally:
        cluster.stop()


def main() -> int:
    args = chaos.arguments(__doc__, rounds=10)
    reason = missing()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    cluster = Cluster(accounting=False)
    return chaos.play(
        args,
        # Stages of 0.4 s: a job takes seconds to start, and the sweep must not be through before the kills are done.
        lambda folder: chaos.prepare(folder, "slurm", OPTIONS, pause=0.4),
        lambda folder, seed: SlurmRound(folder, seed, cluster),
        kills=(5, 8),
        around=running(cluster),
    )


if __name__ == "__main__":
    sys.exit(main())
