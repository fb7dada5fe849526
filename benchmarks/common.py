"""What benchmarks share: options and printing, planned sweeps, and results that nothing was computed for."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitq.config import RunConfig
from vitq.store import Store
from vitq.store.metrics import Metrics
from vitq.store.record import utc_now
from vitq.store.result import Memory, Provenance, Result, Size, Timings

if TYPE_CHECKING:
    from vitq.planning.plan import Plan

# A worker of `vitq.job` as a script; see `work`.
WORKER = f"""\
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parent)!r})
from common import work
sys.exit(work({{pause}}))
"""


def options(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the module's docstring as help, and `--json`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def show(facts: Mapping[str, Any], as_json: bool) -> None:
    """Print facts as one JSON object, or one a line."""
    print(json.dumps(facts) if as_json else "\n".join(f"{name:<16} {value}" for name, value in facts.items()))


def plan(words: list[str], sweep: str | None = None) -> Plan:
    """The plan of `vitq run` with these overrides, untracked. sweep: a sweep's name, for several values a key."""
    from vitq.planning import compose, planner  # not in `work`: a worker needs no Hydra

    file, roots = compose.root_config()
    primary = compose.load(file, roots, [*words, "tracker=none"], multirun=sweep is not None)
    return planner.make(primary, name=sweep)


def config(*words: str) -> RunConfig:
    """The composed config of one run."""
    return plan(list(words)).runs[0].config


def made_up(
    signature: str, config: RunConfig, score: float, seconds: float, memory: Memory, provenance: Provenance
) -> Result:
    """A result with this top-1, in percent."""
    return Result(
        signature=signature,
        config=config.to_dict(),
        timings=Timings(total=seconds),
        memory=memory,
        metrics=Metrics(top1=score, top5=100, nll=0, fp_top1=100, drop=100 - score, agreement=score, kl=0, n_eval=1),
        size=Size(mean_weight_bits=4, mean_activation_bits=4, fp_bytes=8, quantized_bytes=1),
        provenance=provenance,
    )


def no_provenance() -> Provenance:
    """Of a run that was not executed."""
    return Provenance(versions={}, host={}, code={}, started_at=utc_now(), finished_at=utc_now())


def differing(stores: Sequence[Store], signatures: Iterable[str]) -> list[str]:
    """Signatures whose run is not finished in each of these stores, or not with the same numbers.

    Equal are metrics, sizes and cost, the table of sites, and the predictions of every image, bit for bit.
    """

    def numbers(store: Store, signature: str) -> tuple[Any, ...] | None:
        run = store.run(signature)
        if not run.is_done() or (result := run.read_result()) is None:
            return None
        sites = run.read_sites().to_json(double_precision=15)
        return result.metrics, result.size, result.cost, sites, run.predictions_path.read_bytes()

    runs = {signature: [numbers(store, signature) for store in stores] for signature in signatures}
    return [
        signature for signature, (first, *others) in runs.items() if first is None or others != [first] * len(others)
    ]


def work(pause: float) -> int:
    """The worker process `python -m vitq.job`; in place of the engine a result is made out of the signature.

    pause: seconds that each of three stages takes at least; it takes up to 0.04 more, by the signature, and leaves a
    file that a later attempt could resume from. 0: one stage that takes no time and leaves nothing.
    """
    import numpy as np
    import pandas as pd

    from vitq.job import execute, provenance, worker

    def measure(config: RunConfig, run_dir: Any, run_log: Any) -> tuple[Result, pd.DataFrame, None]:
        number = int(run_dir.signature, 16)
        for stage in range(3 if pause else 1):
            run_log.stage(f"stage {stage}", 1)
            time.sleep(pause and pause + (number >> (8 * stage)) % 40 / 1000)
            run_log.advance()
            if pause:
                run_dir.state_dir.mkdir(parents=True, exist_ok=True)
                (run_dir.state_dir / f"{stage}.bin").write_bytes(b"state")
        score = number % 10000 / 100
        site = {
            "site": "head.input",
            "kind": "head",
            "shape": "1x1",
            "elements": 1,
            "quantizer": "uniform",
            "granularity": "tensor",
            "bits": 4,
            "mse": score,
            "sqnr_db": 1.0,
        }
        sites = pd.DataFrame([site])
        run_dir.write_sites(sites)
        run_dir.write_predictions(
            {
                "correct": np.ones(1, bool),
                "label": np.zeros(1, np.int64),
                "topk_index": np.zeros((1, 1), np.int32),
                "topk_logit": np.full((1, 1), score, np.float32),
            }
        )
        facts = provenance.provenance(run_log.started_at, run_log.attempt)
        result = made_up(run_dir.signature, config, score, run_log.total(), provenance.peak_memory(), facts)
        return result, sites, None

    execute._engine = lambda config: measure  # type: ignore[assignment,return-value]
    return worker.main()
