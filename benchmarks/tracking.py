"""A sweep of 40 runs tracked offline, one of which crashes, read back with W&B's own reader.

    python benchmarks/tracking.py            --json prints {"runs", "finished", "failed", "problems", …}

39 runs of the embedded ViT on real digits, and one whose budget of bits turns out impossible once it runs. Every W&B
run must hold its config, its summary, its tables of sites and stages, and the exit code that its record says; the
crashed one must be failed. Exit code 1, and a list of problems, where one does not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vitq.store import Store
from vitq.track import record

SWEEP = """\
defaults: [config, _self_]
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      model: vit_digits
      method: fp32,minmax,mse,repq_vit,mixed_precision
      bits: w6a6,w4a4,w3a3
      seed: range(4)
tracker: {name: wandb}
calib: {size: 32}
sweep:
  name: forty
  exclude:
    - {method: mixed_precision, seed: [1, 2, 3]}
    - {method: mixed_precision, bits: w3a3}
"""
CRASH = ["model=vit_digits", "method=mixed_precision", "bits=w4a4", "tracker=wandb", "calib.size=32"]
TOO_SMALL = "+method.steps.allocate.size_mb=0.001"


def main() -> int:
    """Run, read, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs_dir = Path(folder) / "runs"
        (Path(folder) / "forty.yaml").write_text(SWEEP)
        start = time.perf_counter()
        vitq(["sweep", str(Path(folder) / "forty.yaml"), f"runs_dir={runs_dir}"], expected=0)
        vitq(["run", *CRASH, TOO_SMALL, f"runs_dir={runs_dir}"], expected=1)
        ran = time.perf_counter() - start
        start = time.perf_counter()
        found = read(Store(runs_dir))
        found |= {"seconds_to_run": round(ran, 1), "seconds_to_read": round(time.perf_counter() - start, 1)}
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(f"{name:<16} {value}" for name, value in found.items()))
    return 1 if found["problems"] else 0


def vitq(words: list[str], expected: int) -> None:
    """A vitq command; SystemExit with what it said where it ends otherwise than expected."""
    done = subprocess.run([sys.executable, "-m", "vitq", *words], capture_output=True, text=True, check=False)
    if done.returncode != expected:
        raise SystemExit(f"vitq {' '.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}")


def read(store: Store) -> dict[str, Any]:
    """What W&B's reader finds of all runs of a store."""
    signatures = store.signatures()
    with ThreadPoolExecutor(2) as pool:
        seen = dict(zip(signatures, pool.map(lambda s: inspect(store, s), signatures), strict=True))
    problems = [f"{s}: {line}" for s in signatures for line in check(store, s, seen[s])]
    states = [run.get("state") for run in seen.values()]
    return {
        "runs": len(signatures),
        "finished": states.count("finished"),
        "failed": states.count("failed"),
        "with_allocation": sum("allocation_path" in run.get("summary", {}) for run in seen.values()),
        "problems": problems,
    }


def inspect(store: Store, signature: str) -> dict[str, Any]:
    """`wandb leet inspect` of a run's mirror; {} where there is none."""
    known = record.read(store.run(signature))
    if known is None:
        return {}
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", known.sync_dir]
    run: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {**run, "folder": known.sync_dir}


def check(store: Store, signature: str, run: dict[str, Any]) -> list[str]:
    """What is wrong with one mirror."""
    if not run:
        return ["no mirror"]
    run_dir, summary, problems = store.run(signature), run["summary"], []
    result = run_dir.read_result()
    if run["config"].get("signature") != signature:
        problems.append("config of another run")
    if run["exit_code"] != (0 if result else 1):
        problems.append(f"exit code {run['exit_code']}")
    if result is None:
        status = run_dir.read_status()
        return problems + ([] if status and summary.get("error") == status.error else ["no reason of the failure"])
    if summary.get("top1") != result.metrics.top1:
        problems.append(f"top1 {summary.get('top1')} instead of {result.metrics.top1}")
    sites = json.loads((Path(run["folder"]) / "files" / summary["sites"]["path"]).read_text())
    bits = sites["columns"].index("bits")
    if [row[bits] for row in sites["data"]] != run_dir.read_sites()["bits"].tolist():
        problems.append("bits of the sites differ")
    return problems + ([] if summary.get("stages", {}).get("nrows") else ["no table of stages"])


if __name__ == "__main__":
    sys.exit(main())
