"""One sweep, three launchers: in this process, in local slots, and on a real SLURM cluster of two nodes. Equal tables?

    python benchmarks/launchers_agree.py                       sweeps/demo.yaml; as root, with SLURM's packages
    python benchmarks/launchers_agree.py --sweep PATH --json   prints {"runs", "identical", "differing", "seconds", …}

Each launcher starts from an empty store, by the command line, with one thread for each run. What is compared: every
row of the table but its seconds, and of each run the metrics, the sizes, the cost, the table of sites and
the predictions of every image, bit for bit. The cluster is that of tests/slurm/.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import differing, options, show

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.slurm.cluster import Cluster, missing
from vitq import report
from vitq.store import Store

LAUNCHES = {
    "inline": ["launcher=inline"],
    "local": ["launcher=local", "launcher.options.slots=2", "launcher.options.threads=1"],
    "slurm": ["launcher=slurm", *(f"++launcher.options.{word}" for word in ("runs_per_job=4", "cpus=1", "time=30",
                                                                            "poll=0.2", "ask=2"))],
}  # fmt: skip


def launch(sweep: str, name: str, runs_dir: Path) -> float:
    """Seconds of the whole command."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "vitq", "sweep", sweep, "tracker=none", f"runs_dir={runs_dir}", "--json"]
    done = subprocess.run([*command, *LAUNCHES[name]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"launcher={name} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return time.perf_counter() - begin


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--sweep", default="demo", help="name or path of a sweep (default: demo)")
    args = parser.parse_args()
    reason = missing()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"
    cluster = Cluster(accounting=False)
    seconds, stores, tables, nodes = {}, [], [], set()
    with tempfile.TemporaryDirectory(prefix="vitq-agree-") as folder:
        try:
            cluster.start()
            os.environ.update(cluster.env)
            for name in LAUNCHES:
                store = Store(Path(folder) / name)
                seconds[name] = round(launch(args.sweep, name, store.root), 1)
                table = report.table(store, store.sweeps()[0]).drop(columns=["seconds"])
                stores.append(store)
                tables.append(table.to_json(double_precision=15))
            for log in store.submissions.path.glob("*/*.log"):
                nodes.add(log.read_text().partition(" on ")[2].partition(",")[0])
        finally:
            cluster.stop()
        signatures = stores[0].read_sweep(stores[0].sweeps()[0]).signatures
        wrong = differing(stores, signatures) + (["table"] if len(set(tables)) > 1 else [])
    out = {
        "runs": len(signatures), "identical": not wrong, "differing": wrong, "nodes": sorted(nodes), "seconds": seconds,
    }  # fmt: skip
    show(out, args.json)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
