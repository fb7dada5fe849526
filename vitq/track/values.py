"""A run's config, summary and tables as W&B takes them: plain Python values only."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from vitq.config import SCHEMA_VERSION, RunConfig, canonical
from vitq.config.labels import bits_label, model_label, run_label
from vitq.store.result import Result


def config_of(config: RunConfig, signature: str, variant: str = "") -> dict[str, Any]:
    """The hashed fields, and labels to group by. Nothing volatile, so that a second attempt has the same config.

    variant: what the run's sweep varies beyond the other labels.
    """
    quantizes = config.method.quantizes
    cell = (
        model_label(config),
        f"{config.method.name} ({variant})" if variant else config.method.name,
        bits_label(config),
        f"c{config.calib.size}" if quantizes else "",
    )
    labels: dict[str, Any] = {
        "name": run_label(config),
        "model": model_label(config),
        "variant": variant,
        "bits": bits_label(config),
        "cell": " ".join(filter(None, cell)),  # all but the seed: W&B's bars group by one key
        "steps": list(config.method.steps),  # in order, which the keys of `method.steps` lose on the way
    }
    facts = {"signature": signature, "schema_version": SCHEMA_VERSION, "label": labels, **canonical(config)}
    return {key: undotted(value) for key, value in facts.items()}


def summary_of(result: Result) -> dict[str, Any]:
    """The fixed vocabulary of a run's summary, under the names of result.json; missing values are left out.

    Percent: top1, top5, fp_top1, agreement; percent points: drop; nats: nll, kl; bytes and bits as they are named;
    `seconds` is the wall-clock total. Provenance is a table: as values of the summary it would be columns.
    """
    flat: dict[str, Any] = {
        **result.metrics.model_dump(),
        **result.size.model_dump(),
        **({} if result.cost is None else result.cost.model_dump()),
        **result.memory.model_dump(),
        "seconds": result.timings.total,
    }
    known = {name: value for name, value in flat.items() if value is not None}
    return {**known, "nonfinite": result.nonfinite}


def figures_of(result: Result) -> dict[str, float]:
    """What a chart over runs is made of: the finite numbers of the summary that compare methods."""
    summary = summary_of(result)
    others = ("ap_box", "drop_box", "ap_mask", "drop_mask", "cosine", "relative_error", "knn_top1", "drop_knn")
    names = ("top1", "top5", "fp_top1", "drop", "agreement", "kl", "nll", *others, "quantized_bytes", "seconds")
    return {name: summary[name] for name in names if name in summary}


def provenance_of(result: Result) -> list[list[str]]:
    """[fact, value] of everything that says where a result comes from, sorted, nested facts by dotted names."""

    def flat(value: Any, prefix: str) -> list[list[str]]:
        if not isinstance(value, dict):
            return [[prefix, str(value)]]
        return [row for key, item in value.items() for row in flat(item, f"{prefix}.{key}" if prefix else str(key))]

    return sorted(flat(result.provenance.model_dump(), ""))


def rows_of(table: pd.DataFrame) -> list[list[Any]]:
    """Rows as plain Python; missing values, NaN and infinities, which are not JSON, become None."""
    return [[_cell(value) for value in row] for row in table.to_numpy(dtype=object).tolist()]


def _cell(value: Any) -> Any:
    plain = value.item() if hasattr(value, "item") else value
    if type(plain).__name__ in ("NAType", "NaTType"):  # pandas' own missing value, where a column holds integers
        return None
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def undotted(value: Any) -> Any:
    """W&B reads a dot in a key as nesting: the key `blocks.0.attn` becomes `blocks/0/attn`, at every depth."""
    if isinstance(value, dict):
        return {str(key).replace(".", "/"): undotted(item) for key, item in value.items()}
    return [undotted(item) for item in value] if isinstance(value, list | tuple) else value
