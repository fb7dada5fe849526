"""1,000 runs that compute nothing, through local slots: what planning, launching and recording cost for each.

    python benchmarks/launch_overhead.py             --json prints {"overhead_ms", "runs", "slots", …}

The workers are real (`vitq.job`: claim, config, status, sites, predictions, result, log), only the engine between them
is replaced by a constant result. overhead_ms is wall-clock of the launch divided by the runs; planning is apart.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

WORKER = """\
import sys
import numpy as np
import pandas as pd
from vitq.job import execute, provenance, worker
from vitq.store.records import Memory, Metrics, Result, Size, Timings

SITES = pd.DataFrame({"site": ["head.input"], "kind": ["head"], "shape": ["1x1"], "elements": [1],
                      "quantizer": ["uniform"], "granularity": ["tensor"], "bits": [4], "mse": [0.0], "sqnr_db": [1.0]})

def nothing(config, run_dir, run_log):
    run_log.stage("evaluate", 1)
    run_log.advance()
    run_dir.write_sites(SITES)
    run_dir.write_predictions({"correct": np.ones(1, bool), "label": np.zeros(1, np.int64),
                               "topk_index": np.zeros((1, 1), np.int32), "topk_logit": np.zeros((1, 1), np.float32)})
    metrics = Metrics(top1=100.0, top5=100.0, nll=0.0, fp_top1=100.0, drop=0.0, kl=0.0,
                      agreement=100.0, n_eval=1)
    size = Size(mean_weight_bits=4, mean_activation_bits=4, fp_bytes=1, quantized_bytes=1)
    result = Result(signature=run_dir.signature, config=config.to_dict(), metrics=metrics, size=size,
                    timings=Timings(total=run_log.total(), stages={}), memory=provenance.peak_memory(),
                    provenance=provenance.provenance(run_log.started_at, run_log.attempt))
    return result, SITES, None

execute._measure = nothing
sys.exit(worker.main())
"""


def main() -> int:
    """Plan, launch, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=2)
    args = parser.parse_args()
    from vitq.planning import compose, planner
    from vitq.planning.display import Show
    from vitq.planning.launcher import launcher_of

    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "worker.py"
        script.write_text(WORKER)
        file, roots = compose.root_config()
        words = [f"seed=range({args.runs})", "tracker=none", f"runs_dir={folder}/runs", "launcher=local"]
        words += [f"launcher.options.slots={args.slots}", f"launcher.options.command=['{sys.executable}','{script}']"]
        start = time.perf_counter()
        planned = planner.make(compose.load(file, roots, words, multirun=True), name="noop")
        planned.commit()
        between = time.perf_counter()
        with Show(Console(file=io.StringIO()), "noop", len(planned.runs)) as show:
            failed = launcher_of(planned).launch(planned, show)
        end = time.perf_counter()
        done = sum(planned.store.run(run.signature).is_done() for run in planned.runs)
    found = {
        "overhead_ms": round(1000 * (end - between) / args.runs, 1), "launch_s": round(end - between, 1),
        "plan_s": round(between - start, 1), "runs": args.runs, "slots": args.slots, "done": done,
        "failed": len(failed),
    }  # fmt: skip
    print(json.dumps(found) if args.json else "\n".join(f"{key:<13}{value}" for key, value in found.items()))
    return 0 if done == args.runs and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
