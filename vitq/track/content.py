"""What is logged to W&B of a finished run, part by part: the same by the live tracker and by a rebuild."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from vitq.plots import bit_allocation
from vitq.store.result import Result
from vitq.store.rundir import RunDir
from vitq.track import loss_curves, objects, probes
from vitq.track.values import figures_of, provenance_of, rows_of, summary_of

# Tables that have a picture or an axis of their own.
PATH, SENSITIVITY, CURVES = "allocation_path", "allocation_sensitivity", "curves"
# W&B refuses tables of more rows.
_MAX_ROWS = 200_000


@dataclass(frozen=True)
class Part:
    """Something to log, named for the warning where W&B refuses it."""

    name: str
    log: Callable[[Any], None]


def of_result(result: Result, sites: pd.DataFrame, run_dir: RunDir) -> list[Part]:
    """Summary, tables of sites, stages and artifacts, the allocation's chart and path, reconstruction curves."""
    return [
        # As history too: charts of a new workspace, and `wandb leet`, show nothing else.
        Part("the figures", lambda run: run.log(figures_of(result))),
        Part("the result", lambda run: run.summary.update(summary_of(result))),
        Part("the tables", partial(_tables, result, sites, run_dir)),
        Part("the bit allocation", partial(_allocation, sites)),
        Part("the allocation's path", partial(_artifact, run_dir, PATH, loss_curves.log_path)),
        Part("the reconstruction curves", partial(_artifact, run_dir, CURVES, loss_curves.log)),
        *([Part("the objects", partial(objects.log, run_dir))] if run_dir.samples_path.exists() else []),
    ]


def of_probes(run_dir: RunDir) -> list[Part]:
    return [Part(f"the probe {name}", partial(probes.log, run_dir, name)) for name in probes.names(run_dir)]


def of_model(result: Result, run_dir: RunDir) -> list[Part]:
    """The packed checkpoint as an artifact; nothing where the run kept none (a full-precision one)."""
    return [Part("the model", partial(_model, result, run_dir))] if run_dir.model_path.exists() else []


def with_sensitivity(sites: pd.DataFrame, sensitivity: pd.DataFrame | None) -> pd.DataFrame:
    """The table of sites with `params` (elements of weights, 0 for activations) and `sensitivity`.

    sensitivity: table of site, bits, loss. A site's is the loss increase that it causes alone at the width it got, in
    the units of that table, relative to nothing quantized; null where that was not measured.
    """
    table = sites.copy()
    table["params"] = table["elements"].where(table["kind"] == "weight", 0)
    if sensitivity is None:
        table["sensitivity"] = None
        return table
    columns = (sensitivity[name].tolist() for name in ("site", "bits", "loss"))
    measured = {(site, int(bits)): float(loss) for site, bits, loss in zip(*columns, strict=True)}
    keys = zip(table["site"], table["bits"].astype(int), strict=True)
    table["sensitivity"] = [measured.get(key) for key in keys]
    return table


def _tables(result: Result, sites: pd.DataFrame, run_dir: RunDir, run: Any) -> None:
    names = run_dir.artifacts()
    # Longest first: the record has lost the order in which they ran.
    stages = [list(item) for item in sorted(result.timings.stages.items(), key=lambda item: (-item[1], item[0]))]
    sensitivity = run_dir.read_artifact(SENSITIVITY) if SENSITIVITY in names else probes.sensitivity(run_dir)
    shown = with_sensitivity(sites, sensitivity)
    tables = {
        "sites": _table(list(shown.columns), rows_of(shown)),
        "stages": _table(["stage", "seconds"], stages),
        "provenance": _table(["fact", "value"], provenance_of(result)),
    }
    for name in names:
        if name != CURVES:  # rows by the ten thousand, and a chart shows them better
            frame = run_dir.read_artifact(name).head(_MAX_ROWS)
            tables[name] = _table(list(frame.columns), rows_of(frame))
    run.log(tables)


def _model(result: Result, run_dir: RunDir, run: Any) -> None:
    import wandb

    facts = {"signature": result.signature, "top1": result.metrics.top1, "bytes": result.size.quantized_bytes}
    # W&B takes a copy: the run's folder may be moved or cleaned before the upload.
    artifact = wandb.Artifact(f"model-{result.signature}", type="model", metadata=facts)
    artifact.add_file(str(run_dir.model_path), name=run_dir.model_path.name, policy="mutable")
    run.log_artifact(artifact)


def _table(columns: list[Any], rows: list[Any]) -> Any:
    import wandb

    return wandb.Table(columns=columns, data=rows, allow_mixed_types=True)


def _allocation(sites: pd.DataFrame, run: Any) -> None:
    import wandb

    if bit_allocation.mixed(sites):
        run.log({"bits": wandb.Plotly(bit_allocation.of_run(sites))})


def _artifact(run_dir: RunDir, name: str, log: Callable[[Any, pd.DataFrame], None], run: Any) -> None:
    if name in run_dir.artifacts():
        log(run, run_dir.read_artifact(name))
