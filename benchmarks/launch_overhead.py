"""1,000 runs that compute nothing, through local slots: what planning, launching and recording cost for each.

    python benchmarks/launch_overhead.py             --json prints {"overhead_ms", "runs", "slots", …}

The workers are real (`vitq.job`: claim, config, status, sites, predictions, result, log), only the engine between them
is replaced by a constant result. overhead_ms is wall-clock of the launch divided by the runs; planning is apart.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path

from common import WORKER, options, plan, show
from rich.console import Console

from vitq.planning.display import Show
from vitq.planning.launcher import launcher_of


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "worker.py"
        script.write_text(WORKER.format(pause=0))
        words = [f"seed=range({args.runs})", f"runs_dir={folder}/runs", "launcher=local"]
        words += [f"launcher.options.slots={args.slots}", f"launcher.options.command=['{sys.executable}','{script}']"]
        start = time.perf_counter()
        planned = plan(words, "noop")
        planned.commit()
        between = time.perf_counter()
        with Show(Console(file=io.StringIO()), "noop", len(planned.runs)) as display:
            failed = launcher_of(planned).launch(planned, display)
        end = time.perf_counter()
        done = sum(planned.store.run(run.signature).is_done() for run in planned.runs)
    facts = {
        "overhead_ms": round(1000 * (end - between) / args.runs, 1), "launch_s": round(end - between, 1),
        "plan_s": round(between - start, 1), "runs": args.runs, "slots": args.slots, "done": done,
        "failed": len(failed),
    }  # fmt: skip
    show(facts, args.json)
    return 0 if done == args.runs and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
