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

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import differing, options, show

from vitq.config.search_path import shipped
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
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=8, help="jobs that the stock launcher starts at once")
    parser.add_argument("--slots", type=int, default=max(1, len(os.sched_getaffinity(0))), help="workers of vitq")
    args = parser.parse_args()
    if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        print("this benchmark needs the stock launcher: pip install hydra-submitit-launcher", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for seed in (0, 1):  # train and decode what both need
            timed([VITQ, "run", "method=minmax", f"seed={seed}", *FIXED, f"runs_dir={root / 'warm'}"], root)
        local = ["launcher=local", f"launcher.options.slots={args.slots}", "launcher.options.threads=1"]
        ours_s = timed([VITQ, "run", "-m", *AXES, *FIXED, *local, f"runs_dir={root / 'ours'}"], root)
        stock_s = timed(stock(root, args.batch), root)
        stores = [Store(root / name) for name in ("ours", "stock")]
        names = sorted({path.name for store in stores for path in store.root.iterdir() if len(path.name) == 16})
        wrong = differing(stores, names) + ([] if len(names) == RUNS else [f"{len(names)} runs instead of {RUNS}"])
    facts = {
        "ratio": round(stock_s / ours_s, 2), "stock_s": round(stock_s, 1), "ours_s": round(ours_s, 1), "runs": RUNS,
        "batch": args.batch, "slots": args.slots, "differing": wrong,
    }  # fmt: skip
    show(facts, args.json)
    return 1 if wrong else 0


def stock(folder: Path, batch: int) -> list[str]:
    """The command of the application that the stock launcher drives."""
    app = folder / "app.py"
    app.write_text(APP.format(conf=str(shipped("conf"))))
    hydra = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=60", f"hydra.sweep.dir={folder / 'multirun'}"]
    hydra += [f"hydra.sweeper.max_batch_size={batch}", "hydra.launcher.cpus_per_task=1"]
    return [sys.executable, str(app), "-m", *AXES, *FIXED, *hydra, f"runs_dir={folder / 'stock'}"]


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


if __name__ == "__main__":
    sys.exit(main())
