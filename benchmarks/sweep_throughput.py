"""32 short runs: vitq's local launcher against hydra-submitit-launcher's, which starts one process per run.

    pip install hydra-submitit-launcher
    python benchmarks/sweep_throughput.py            --json prints {"ratio" = stock / ours, "stock_s", "ours_s", …}

Both execute the same 32 runs of the embedded ViT (4 methods x 4 bit-widths x 2 seeds) through `vitq run`, each from an
empty store, planning and start-up included; the model, the decoded images and the full-precision logits are in the
cache for both. The stock launcher starts all jobs of a batch at once; 32 interpreters with torch do not fit into every
machine's memory, so that its sweeper gets batches (`--batch`, `hydra.sweeper.max_batch_size`). Every job has one
thread. The results of both are compared before a figure is printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vitq.store import Store

AXES = ["method=minmax,percentile,mse,repq_vit", "bits=w8a8,w6a6,w4a4,w3a3", "seed=0,1"]
FIXED = ["tracker=none", "calib.size=32"]
RUNS = 32
VITQ = str(Path(sys.executable).with_name("vitq"))

# What a lab writes that has Hydra, submitit and the command line of vitq.
APP = """\
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base=None, config_path={conf!r}, config_name="config")
def main(config):
    from hydra.core.global_hydra import GlobalHydra
    from vitq.cli import main as vitq
    overrides = HydraConfig.get().overrides.task
    GlobalHydra.instance().clear()  # vitq composes its config itself
    code = vitq(["run", "--json", *overrides])
    if code:
        raise SystemExit(code)

main()
"""


def main() -> int:
    """Run both, compare the results, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--batch", type=int, default=8, help="jobs that the stock launcher starts at once")
    parser.add_argument("--slots", type=int, default=max(1, len(os.sched_getaffinity(0))), help="workers of vitq")
    args = parser.parse_args()
    if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        print("this benchmark needs the stock launcher: pip install hydra-submitit-launcher", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        warm_up(place / "warm")
        ours_s = timed(ours(place / "ours", args.slots), place)
        stock_s = timed(stock(place, args.batch), place)
        differing = compare(Store(place / "ours"), Store(place / "stock"))
    found = {
        "ratio": round(stock_s / ours_s, 2), "stock_s": round(stock_s, 1), "ours_s": round(ours_s, 1), "runs": RUNS,
        "batch": args.batch, "slots": args.slots, "differing": differing,
    }  # fmt: skip
    print(json.dumps(found) if args.json else "\n".join(f"{key:<10}{value}" for key, value in found.items()))
    return 1 if differing else 0


def warm_up(runs_dir: Path) -> None:
    """Train and decode what both need."""
    for seed in (0, 1):
        timed([VITQ, "run", "method=minmax", f"seed={seed}", *FIXED, f"runs_dir={runs_dir}"], runs_dir.parent)


def ours(runs_dir: Path, slots: int) -> list[str]:
    """The command of vitq."""
    local = ["launcher=local", f"launcher.options.slots={slots}", "launcher.options.threads=1"]
    return [VITQ, "run", "-m", *AXES, *FIXED, *local, f"runs_dir={runs_dir}"]


def stock(place: Path, batch: int) -> list[str]:
    """The command of the application that the stock launcher drives."""
    from vitq.config.search_path import shipped

    app = place / "app.py"
    app.write_text(APP.format(conf=str(shipped("conf"))))
    hydra = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=60", f"hydra.sweep.dir={place / 'multirun'}"]
    hydra += [f"hydra.sweeper.max_batch_size={batch}", "hydra.launcher.cpus_per_task=1"]
    return [sys.executable, str(app), "-m", *AXES, *FIXED, *hydra, f"runs_dir={place / 'stock'}"]


def timed(command: list[str], folder: Path) -> float:
    """Seconds of a command that must succeed."""
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    return time.perf_counter() - start


def compare(one: Store, other: Store) -> list[str]:
    """Signatures whose result is missing in a store, or whose metrics are not equal."""
    names = sorted({path.name for store in (one, other) for path in Path(store.root).iterdir() if len(path.name) == 16})
    wrong = []
    for name in names:
        first, second = one.run(name).read_result(), other.run(name).read_result()
        if first is None or second is None or first.metrics != second.metrics:
            wrong.append(name)
    return wrong if len(names) == RUNS else [*wrong, f"{len(names)} runs instead of {RUNS}"]


if __name__ == "__main__":
    sys.exit(main())
