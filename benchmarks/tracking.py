"""A sweep of 40 runs tracked offline, one of which crashes and one of which is killed, read back with W&B's own reader.

    python benchmarks/tracking.py                        --json prints {"runs", "finished", "failed", "problems", …}
    python benchmarks/tracking.py --runs-dir runs        keeps the store: `vitq report forty`, docs/screenshots.py

Runs of the embedded ViT on real digits, in two worker processes: seven methods, three bit-widths, three seeds, some
with all four probes. The budget of bits of one run turns out impossible once it runs, and the process of another is
killed (SIGKILL) in the middle of its reconstruction. Every W&B run must hold its config, its summary, its tables of
sites and stages, the allocation and the probes of its record, and the exit code that its record says. A crashed run
must be failed; a killed one has no end, `vitq sync` must see that, and `vitq track rebuild` must make it a failed one.
Exit code 1, and a list of problems, where anything is otherwise.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from common import options, show

from vitq.errors import StoreError
from vitq.store import RunDir, Store, claim, mirror_record

SWEEP = """\
defaults: [config, _self_]
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      model: vit_digits
      method: fp32,minmax,mse,repq_vit,ias_vit,mixed_precision,too_small
      bits: w6a6,w4a4,w3a3
      seed: range(3)
      probe: none,looks
method: {iterations: 30}
tracker: {name: wandb}
launcher: {name: local, options: {slots: 2, threads: 1, max_retries: 0}}
calib: {size: 32}
sweep:
  name: forty
  description: A sweep of 40 runs, one of which crashes and one of which is killed
  baseline: minmax
  exclude:
    # Probed: the first seed of three methods, and of one that learns weights at one width.
    - {probe: looks, seed: [1, 2]}
    - {probe: looks, method: [fp32, mse, too_small]}
    - {probe: looks, method: ias_vit, bits: [w6a6, w4a4]}
    - {probe: none, seed: 0, method: [minmax, repq_vit, mixed_precision]}
    - {probe: none, seed: 0, method: ias_vit, bits: w3a3}
    # 40 runs: two allocations, one impossible one.
    - {method: [mixed_precision, too_small], seed: [1, 2]}
    - {method: [mixed_precision, too_small], bits: w3a3}
    - {method: too_small, bits: w6a6}
"""
# mixed_precision with a budget that no allocation meets, which is known once the model is there.
TOO_SMALL = """\
defaults: [mixed_precision, _self_]
name: too_small
steps: {allocate: {size_mb: 0.001}}
"""
LOOKS = """\
images: 32
options:
  landscape: {views: [random, path, block], points: 11, line_points: 11, block_points: 9}
  distributions: {bins: 64}
  hessian: {images: 8, max_samples: 16, eigen: blocks, top: 1}
  sensitivity: {by: site, widths: [3, 4, 6], images: 8}
"""
KILLED = {"method": "ias_vit", "bits": 3, "seed": 2}


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--runs-dir", type=Path, help="keep the runs there (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs_dir = (args.runs_dir or Path(folder) / "runs").absolute()
        for name, text in (("forty", SWEEP), ("method/too_small", TOO_SMALL), ("probe/looks", LOOKS)):
            path = Path(folder) / f"{name}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        start = time.perf_counter()
        sweep(Path(folder), runs_dir)
        ran = time.perf_counter() - start
        start = time.perf_counter()
        facts = read(Store(runs_dir))
        facts |= {"seconds_to_run": round(ran, 1), "seconds_to_read": round(time.perf_counter() - start, 1)}
    show(facts, args.json)
    return 1 if facts["problems"] else 0


def sweep(folder: Path, runs_dir: Path) -> None:
    """The sweep, with the kill on its way. SystemExit where it ends otherwise than with two failed runs."""
    words = ["sweep", str(folder / "forty.yaml"), "--config-dir", str(folder), f"runs_dir={runs_dir}"]
    command = [sys.executable, "-m", "vitq", *words]
    with tempfile.TemporaryFile("w+") as out:
        driver = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        killed = kill(Store(runs_dir), driver)
        driver.wait()
        out.seek(0)
        if driver.returncode != 1 or not killed:
            raise SystemExit(f"vitq {' '.join(words)} ended with {driver.returncode}, killed {killed}\n{out.read()}")


def kill(store: Store, driver: subprocess.Popen[bytes]) -> bool:
    """Send SIGKILL to the worker of the run KILLED once it optimizes and W&B has its config; whether that happened."""
    while driver.poll() is None and "forty" not in store.sweeps():
        time.sleep(0.1)
    configs = {s: store.run(s).read_config() for s in store.read_sweep("forty").signatures}
    (run_dir,) = (
        store.run(s)
        for s, config in configs.items()
        if {"method": config["method"]["name"], "bits": config["bits"]["weight"], "seed": config["seed"]} == KILLED
    )
    while driver.poll() is None:
        holder, status, known = claim.read(run_dir), run_dir.status_hint(), mirror_record.read(run_dir)
        optimizes = holder is not None and status is not None and status.stage == "reconstruct"
        files = list(Path(known.sync_dir).glob("*.wandb")) if optimizes and known is not None else []
        if holder is not None and any(file.stat().st_size > 1000 for file in files):
            os.kill(holder.pid, signal.SIGKILL)
            return True
        time.sleep(0.05)
    return False


def vitq(words: list[str]) -> str:
    """What a vitq command prints; SystemExit where it fails."""
    done = subprocess.run([sys.executable, "-m", "vitq", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"vitq {' '.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def read(store: Store) -> dict[str, Any]:
    """What W&B's reader finds of all runs of a store, before and after the mirror without an end is made again."""
    signatures = store.read_sweep("forty").signatures
    before = mirrors(store, signatures)
    ends = [run.get("exit_code") for run in before.values()]
    waiting = json.loads(vitq(["sync", "forty", "--dry-run", "--json", "--runs-dir", str(store.root)]))["runs"]
    endless = [s for s, run in before.items() if run.get("exit_code") is None]
    problems = [] if waiting["rebuild"] == endless else [f"vitq sync would rebuild {waiting['rebuild']}, not {endless}"]
    if endless:
        vitq(["track", "rebuild", *endless, "--runs-dir", str(store.root)])
    seen = before | mirrors(store, endless)
    problems += [f"{s}: {line}" for s in signatures for line in check(store, s, seen[s])]
    states = [run.get("state") for run in seen.values()]
    keys = [set(run.get("summary", {})) for run in seen.values()]
    return {
        "runs": len(signatures),
        "exit_codes": {str(code): ends.count(code) for code in (0, 1, None)},
        "finished": states.count("finished"),
        "failed": states.count("failed"),
        "with_sites": sum("sites" in names for names in keys),
        "with_curves": sum(map(curves, seen.values())),
        "with_allocation": sum({"allocation_path", "bits"} <= names for names in keys),
        "with_probes": sum(len(probes(run)) == 4 for run in seen.values()),
        "problems": problems,
    }


def mirrors(store: Store, signatures: list[str]) -> dict[str, dict[str, Any]]:
    """Signature → what `wandb leet inspect` says."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(signatures, pool.map(lambda s: inspect(store, s), signatures), strict=True))


def inspect(store: Store, signature: str) -> dict[str, Any]:
    """`wandb leet inspect` of a run's mirror; {} where there is none."""
    known = mirror_record.read(store.run(signature))
    if known is None:
        return {}
    done = leet("--summary", known.sync_dir)
    run: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return {**run, "folder": known.sync_dir}


def leet(*words: str) -> subprocess.CompletedProcess[str]:
    """`wandb leet inspect`, W&B's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check(store: Store, signature: str, run: dict[str, Any]) -> list[str]:
    """What is wrong with one mirror."""
    if "config" not in run:
        return ["no mirror that W&B's reader can read"]
    run_dir, summary, problems = store.run(signature), run["summary"], []
    result = run_dir.read_result()
    if run["config"].get("signature") != signature:
        problems.append("config of another run")
    if (run["exit_code"], run["state"]) != ((0, "finished") if result else (1, "failed")):
        problems.append(f"state {run['state']}, exit code {run['exit_code']}")
    if result is None:
        status = run_dir.read_status()
        return problems + ([] if status and summary.get("error") == status.error else ["no reason of the failure"])
    if summary.get("top1") != result.metrics.top1:
        problems.append(f"top1 {summary.get('top1')} instead of {result.metrics.top1}")
    if probes(run) != run_dir.probes():
        problems.append(f"probes {probes(run)} instead of {run_dir.probes()}")
    sites = table(run, "sites")
    if sites["bits"].tolist() != run_dir.read_sites()["bits"].tolist():
        problems.append("bits of the sites differ")
    if "sensitivity" in run_dir.probes() and sites["sensitivity"].isna().all():
        problems.append("no sensitivity beside the sites")
    if "curves" in run_dir.artifacts() and not curves(run):
        problems.append("no reconstruction curves")
    return problems + _allocation(run_dir, run, sites) + ([] if len(table(run, "stages")) else ["no table of stages"])


def _allocation(run_dir: RunDir, run: dict[str, Any], sites: pd.DataFrame) -> list[str]:
    """Whether the path's end, the chart and the table of sites say the same of an allocation."""
    try:
        path = run_dir.read_artifact("allocation_path")
    except StoreError:
        return []
    problems = []
    if len(table(run, "allocation_path")) != len(path):
        problems.append("the allocation's path is another one")
    figure = media(run, "bits")
    drawn = sorted(int(text) for row in figure["data"][0]["text"] for text in row if text.isdigit())
    if drawn != sorted(int(bits) for bits in sites["bits"] if bits < 32):
        problems.append("the chart of bits differs from the table of sites")
    return problems


def probes(run: dict[str, Any]) -> list[str]:
    """Probes whose picture the mirror holds, sorted."""
    media = (key.removeprefix("probes/") for key, value in run["summary"].items() if isinstance(value, dict))
    return sorted(name for name in media if name in ("distributions", "hessian", "landscape", "sensitivity"))


def curves(run: dict[str, Any]) -> bool:
    """Whether the mirror's history holds reconstruction losses."""
    return run["exit_code"] == 0 and "curves/iteration" in leet(run["folder"]).stdout


def table(run: dict[str, Any], name: str) -> pd.DataFrame:
    """A table of the mirror."""
    plain = media(run, name)
    return pd.DataFrame(plain["data"], columns=plain["columns"])


def media(run: dict[str, Any], name: str) -> Any:
    """A JSON file of the mirror."""
    return json.loads((Path(run["folder"]) / "files" / run["summary"][name]["path"]).read_text())


if __name__ == "__main__":
    sys.exit(main())
