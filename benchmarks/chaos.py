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
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import psutil
from common import WORKER, differing, options, plan, show

from vitq.store import Store
from vitq.store.cleanup import garbage

RUNS = 20
SWEEP = "chaos"
# Options of the launcher.
LOCAL = {"slots": 2, "threads": 1, "max_retries": 1000}
# Seconds that a driver or a worker may take to end by itself: a disk that is flushing gigabytes stalls every write.
PATIENCE = 400

# The driver of a stored sweep, as `vitq retry` is one, without planning.
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


class ChaosRound:
    """One sweep under fire, in a folder of its own."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.random = folder, random.Random(seed)
        self.kills = 0
        self.errors = folder / "driver.err"
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
        # Whoever is left may finish; then one more, undisturbed, executes what is left, if anything.
        for driver in self._drivers:
            driver.wait(PATIENCE)
        self._start().wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while list(self._processes()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes are left: {[words(p) for p in self._processes()]}")
            time.sleep(0.05)

    def counts(self) -> dict[str, int]:
        """What was killed."""
        return {"kills": self.kills}

    def stop(self) -> None:
        """Nothing outlives a round that went wrong."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(self.folder / "driver.py"), str(self.folder / "runs"), SWEEP]
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
            if str(self.folder / "worker.py") in words(process):
                yield process.pid

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and any(str(self.folder) in word for word in words(process)):
                    yield process


def words(process: psutil.Process) -> list[str]:
    """Its command line; [] where it has ended meanwhile."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def prepare(folder: Path, launcher: str, settings: dict[str, object], pause: float = 0.02) -> Store:
    """A planned sweep in a store of its own, and its two scripts. settings: the launcher's. pause: `common.work`."""
    folder.mkdir(parents=True)
    (folder / "driver.py").write_text(DRIVER)
    (folder / "worker.py").write_text(WORKER.format(pause=pause))
    words = [f"seed=range({RUNS})", f"runs_dir={folder}/runs", f"launcher={launcher}"]
    words += [f"++launcher.options.{key}={value}" for key, value in settings.items()]
    words.append(f"++launcher.options.command=['{sys.executable}','{folder}/worker.py']")
    planned = plan(words, SWEEP)
    planned.commit()
    return planned.store


def compare(store: Store, calm: Store) -> dict[str, list[str]]:
    """What is wrong with a store after its round."""
    signatures = calm.read_sweep(SWEEP).signatures
    wrong: dict[str, list[str]] = {"lost": differing((calm, store), signatures), "duplicates": [], "left": []}
    for name in signatures:
        run = store.run(name)
        if run.read_log().count(" done in ") > 1:
            wrong["duplicates"].append(name)
        wrong["left"] += [str(path) for path in run.path.glob("claim*")]
        wrong["left"] += [str(run.state_dir)] * run.state_dir.exists()
    # Logs of finished jobs may go, too, but nobody's death left them.
    logs = store.submissions.path
    wrong["left"] += [str(item.path) for item in garbage(store) if item.path.parent != logs]
    return wrong


def logs_of(store: Store, game: ChaosRound) -> str:
    """The logs of runs and drivers, for a round that went wrong."""
    logs = [f"{name}:\n{store.run(name).read_log()}" for name in store.read_sweep(SWEEP).signatures]
    return "\n".join([str(game.counts()), *logs, "drivers:", game.errors.read_text(encoding="utf-8")])


def arguments(doc: str | None, rounds: int) -> argparse.Namespace:
    """What the command line says; rounds: the default."""
    parser = options(doc)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the next one has the next")
    return parser.parse_args()


def play(
    args: argparse.Namespace,
    prepared: Callable[[Path], Store],
    made: Callable[[Path, int], ChaosRound],
    kills: tuple[int, int],
    around: AbstractContextManager[object] | None = None,
) -> int:
    """A calm sweep in local slots, then rounds, compared with it and printed; 1 where something is wrong.

    prepared: the store of a round in a folder. made: the round of a folder and a seed. kills: least and most of one.
    around: entered before the first round.
    """
    total: dict[str, int] = {}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="vitq-chaos-") as folder:
        calm = prepare(Path(folder) / "calm", "local", LOCAL)
        ChaosRound(Path(folder) / "calm", 0).play(kills=0)
        with around or nullcontext():
            for seed in range(args.seed, args.seed + args.rounds):
                store = prepared(Path(folder) / f"round{seed}")
                game = made(Path(folder) / f"round{seed}", seed)
                try:
                    game.play(kills=game.random.randint(*kills))
                except (subprocess.TimeoutExpired, RuntimeError):
                    print(f"round {seed}: {logs_of(store, game)}", file=sys.stderr)
                    raise
                finally:
                    game.stop()
                wrong = compare(store, calm)
                counts = {"rounds": 1, **game.counts(), "runs": RUNS} | {
                    key: len(names) for key, names in wrong.items()
                }
                total = {key: total.get(key, 0) + count for key, count in counts.items()}
                for key, names in wrong.items():
                    if names:
                        print(f"round {seed}: {key}: {', '.join(names)}", file=sys.stderr)
                if any(wrong.values()):
                    print(logs_of(store, game), file=sys.stderr)
                if not args.json:
                    print(f"round {seed}: {game.counts()}", flush=True)
    show(total | {"seconds": round(time.perf_counter() - start)}, args.json)
    return 1 if total["lost"] or total["duplicates"] or total["left"] else 0


def main() -> int:
    return play(arguments(__doc__, rounds=50), lambda folder: prepare(folder, "local", LOCAL), ChaosRound, kills=(4, 8))


if __name__ == "__main__":
    sys.exit(main())
