"""Seconds to plan a sweep of 2,000 runs: the first time, again when all are planned, again when all are finished.

    python benchmarks/planning.py            --json prints {"runs", "plan", "replan", "replan_done"}

Every figure is one `vitq sweep --dry-run` in a process of its own, start-up included; `plan` writes the plan too. The
finished runs get a made-up result each, so that reading 2,000 results counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vitq.config import RunConfig
from vitq.config.search_path import ConfigPath
from vitq.planning import compose, planner
from vitq.store import Store
from vitq.store.records import Memory, Metrics, Provenance, Result, Size, Status, Timings, utc_now

SWEEP = """\
defaults: [config, _self_]
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      model: vit_digits,swin_digits
      method: minmax,percentile,mse,repq_vit,gptq
      bits: w8a8,w6a6,w4a4,w3a3
      calib.size: 32,64
      seed: range({seeds})
sweep: {{name: big}}
"""


def dry_run(file: Path, runs_dir: Path) -> float:
    """Seconds of one `vitq sweep --dry-run`."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "vitq", "sweep", str(file), "--dry-run", f"runs_dir={runs_dir}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def finish(store: Store) -> None:
    """Give every planned run a result."""
    for signature in store.signatures():
        run = store.run(signature)
        config, problems = RunConfig.parse(run.read_config())
        assert config is not None, problems
        run.write_result(
            Result(
                signature=signature, config=config.to_dict(), timings=Timings(total=1.0),
                metrics=Metrics(
                    top1=90.0, top5=99.0, nll=0.1, fp_top1=91.0, drop=1.0, agreement=98.0, kl=0.1, n_eval=596
                ),
                size=Size(mean_weight_bits=8, mean_activation_bits=8, fp_bytes=8, quantized_bytes=2),
                memory=Memory(peak_rss_bytes=1),
                provenance=Provenance(versions={}, host={}, code={}, started_at=utc_now(), finished_at=utc_now()),
            )
        )  # fmt: skip
        run.write_status(Status(state="done"))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=25, help="80 runs each (default: 25, 2,000 runs)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file, runs_dir = Path(folder, "big.yaml"), Path(folder, "runs")
        file.write_text(SWEEP.format(seeds=args.seeds))
        begin = time.perf_counter()
        made = planner.make(compose.load(file, ConfigPath.of(), [f"runs_dir={runs_dir}"], multirun=True))
        made.commit("benchmark")
        seconds = {"runs": len(made.runs), "plan": time.perf_counter() - begin}
        seconds["replan"] = dry_run(file, runs_dir)
        finish(made.store)
        seconds["replan_done"] = dry_run(file, runs_dir)
    if args.json:
        print(json.dumps(seconds))
    else:
        print(f"{seconds['runs']} runs: planned and written in {seconds['plan']:.1f} s, planned again in "
              f"{seconds['replan']:.1f} s, with all of them finished in {seconds['replan_done']:.1f} s")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
