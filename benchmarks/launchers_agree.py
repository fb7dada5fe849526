"""One sweep, three launchers: in this process, in local slots, and on a real SLURM cluster of two nodes. Equal tables?

    python benchmarks/launchers_agree.py                       sweeps/demo.yaml; as root, with SLURM's packages
    python benchmarks/launchers_agree.py --sweep PATH --json   prints {"runs", "identical", "differing", "seconds", …}

Each launcher starts from an empty store, by the command line, with one thread for each run. What is compared: every
row of the table but its seconds, and of each run the metrics, the sizes, the cost, the table of sites and
the predictions of every image, bit for bit. The cluster is that of tests/slurm/.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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


def facts(store: Store, sweep: str) -> dict[str, Any]:
    """All that has to be equal: the table, and each run by its signature."""
    table = report.table(store, sweep).drop(columns=["seconds"])
    found: dict[str, Any] = {"table": table.to_json(double_precision=15)}
    for signature in store.read_sweep(sweep).signatures:
        run = store.run(signature)
        result = run.read_result()
        sites = run.read_sites().to_json(double_precision=15)
        found[signature] = result and (
            result.metrics, result.size, result.cost, sites, run.predictions_path.read_bytes()
        )  # fmt: skip
    return found


def main() -> int:
    """Launch three times, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", default="demo", help="name or path of a sweep (default: demo)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    reason = missing()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"
    cluster = Cluster(accounting=False)
    seconds, found, nodes = {}, {}, set()
    with tempfile.TemporaryDirectory(prefix="vitq-agree-") as folder:
        try:
            cluster.start()
            os.environ.update(cluster.env)
            for name in LAUNCHES:
                store = Store(Path(folder) / name)
                seconds[name] = round(launch(args.sweep, name, store.root), 1)
                found[name] = facts(store, store.sweeps()[0])
            for log in store.submissions.path.glob("*/*.log"):
                nodes.add(log.read_text().partition(" on ")[2].partition(",")[0])
        finally:
            cluster.stop()
    first = found["inline"]
    differing = sorted(key for key in first if any(found[name].get(key) != first[key] for name in LAUNCHES))
    out = {
        "runs": len(first) - 1, "identical": not differing and None not in first.values(), "differing": differing,
        "nodes": sorted(nodes), "seconds": seconds,
    }  # fmt: skip
    print(json.dumps(out) if args.json else "\n".join(f"{key:<10}{value}" for key, value in out.items()))
    return 0 if out["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
