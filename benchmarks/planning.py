"""Seconds to plan a sweep of 2,000 runs: the first time, again when all are planned, again when all are finished.

    python benchmarks/planning.py            --json prints {"runs", "plan", "replan", "replan_done"}

Every figure is one `vitq sweep --dry-run` in a process of its own, start-up included; `plan` writes the plan too. The
finished runs get a made-up result each, so that reading 2,000 results counts.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import made_up, no_provenance, options, show

from vitq.config import RunConfig
from vitq.config.search_path import ConfigPath
from vitq.planning import compose, planner
from vitq.store import Store
from vitq.store.result import Memory
from vitq.store.status import Status

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
        run.write_result(made_up(signature, config, 90.0, 1.0, Memory(peak_rss_bytes=1), no_provenance()))
        run.write_status(Status(state="done"))


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--seeds", type=int, default=25, help="80 runs each (default: 25, 2,000 runs)")
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
    show(seconds, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
