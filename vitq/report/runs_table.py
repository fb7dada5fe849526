"""One row per run of a sweep, whatever became of it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vitq.config import RunConfig, canonical, orders
from vitq.config.labels import bits_label, network_name
from vitq.errors import StoreError
from vitq.report.accuracy_table import CELL
from vitq.store import Run, Store, SweepRecord
from vitq.store.result import Result

# Column → what it holds. Accuracies, drop and agreement in percent (points), MB = 10^6 bytes.
COLUMNS = {
    "model": "str", "data": "str", "method": "str", "bits": "str", "calib": "Int64", "seed": "Int64",
    "top1": "float64", "drop": "float64", "fp_top1": "float64", "agreement": "float64", "kl": "float64",
    "mb": "float64", "seconds": "float64", "signature": "str", "state": "str", "error": "str",
    "top5": "float64", "nll": "float64", "fp_mb": "float64", "n_eval": "Int64",
    "weight_bits": "float64", "activation_bits": "float64", "gbops": "float64", "integer_share": "float64",
    "weight_mb": "float64", "activation_mb": "float64", "method_name": "str", "protocol": "str",
    "quantize_seconds": "float64", "options": "str", "task": "str",
}  # fmt: skip

# Of detectors, where a sweep has some: average precision and fidelity in percent, drops in points.
DETECTORS = {
    f"{name}_{what}": "float64" for what in ("box", "mask") for name in ("ap", "fp_ap", "drop", "fidelity")
}  # fmt: skip

# Of backbones without a head, where a sweep has some: percent, drops in points. Full precision's cosine is 100.
FEATURES = dict.fromkeys(
    ("cosine", "drop_cosine", "fp_cosine", "relative_error", "knn_top1", "drop_knn", "fp_knn_top1", "knn_agreement"),
    "float64",
)

# Where something is published of full precision.
PUBLISHED = {"published_top1": "float64"}

# Bits that a result counts for what stayed in floating point.
_FLOAT = 32

# Keys that have a column of their own; any other key in which runs differ goes into a label.
_SHOWN = {"model.name", "data.name", "method.name", "bits.weight", "bits.activation", "calib.size", "seed"}


@dataclass(frozen=True)
class _RunRow:
    signature: str
    config: RunConfig | None
    result: Result | None
    state: str
    error: str


# What full precision has no use for: its images are the scored ones.
_OF_CALIBRATION = ("data.calib_split", "data.allow_overlap", "data.fingerprint")

# Where recipes say that they come from when it is no paper.
_OF_NO_PAPER = ("", "this repository", "round-to-nearest")


def records_of(store: Store, sweeps: str | Sequence[str]) -> list[SweepRecord]:
    """The records of one sweep or of several. Raises StoreError for an unknown one."""
    return [store.read_sweep(name) for name in dict.fromkeys([sweeps] if isinstance(sweeps, str) else sweeps)]


def table(store: Store, sweeps: str | Sequence[str]) -> pd.DataFrame:
    """One row per run of a sweep, or of several, in the order of the plan; columns as in `COLUMNS`.

    state: as in `vitq.store.run.RunState`. error: why there is no result; the last sign of life of a running one.
    quantize_seconds: of the steps of the recipe. options: whose the recipe's options are.
    Runs that differ in more than the columns show (an ablation of a method, another checkpoint) get it in their label:
    `ias_vit (steps.stage1.enabled=false)`. The full-precision method has bits `FP` and neither calib nor seed.
    Raises StoreError when the sweep is unknown.
    """
    records = records_of(store, sweeps)
    signatures = dict.fromkeys(signature for record in records for signature in record.signatures)
    runs = [_read(Run(store.run(signature))) for signature in signatures]
    configs = {run.signature: run.config for run in runs if run.config is not None}
    # Iterations that a budget chose are no variant of a method: `options` says what they are. Those of two budgets are.
    budgets = {record.budget_seconds for record in records}
    labels = _labels(configs, set() if None in budgets or len(budgets) > 1 else {"method.iterations"})
    options = {signature: text for record in records for signature, text in record.options.items()}
    rows = [_row(run, labels.get(run.signature, {})) for run in runs]
    for row in rows:
        row["options"] = options.get(row["signature"], "")
        config = configs.get(row["signature"])
        if row["options"] == "paper's" and config is not None and config.method.source in _OF_NO_PAPER:
            row["options"] = "recipe's"
    _separate(rows, {signature: label["bits"] for signature, label in labels.items()})
    columns = dict(COLUMNS)
    for more in (DETECTORS, FEATURES, PUBLISHED):
        columns |= more if any(more.keys() & row.keys() for row in rows) else {}
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def _read(run: Run) -> _RunRow:
    config: RunConfig | None = None
    try:
        config, problems = RunConfig.parse(run.dir.read_config())
        if problems:
            return _RunRow(run.signature, None, None, "unreadable", f"{run.dir.config_path}: {'; '.join(problems)}")
        result = run.result
    except StoreError as error:
        return _RunRow(run.signature, config, None, "unreadable", str(error))
    state = run.read_state()
    reason = state.error or ""
    if state.state == "running":
        reason = f"{state.stage or 'started'}; last sign of life {state.updated_at}"
    return _RunRow(run.signature, config, result, state.state, reason)


def _row(run: _RunRow, labels: Mapping[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {"signature": run.signature, "state": run.state, "error": run.error, "protocol": ""}
    row |= dict.fromkeys(("model", "data", "method", "bits", "method_name", "task"), "?")
    if run.config is not None:
        quantizes = run.config.method.quantizes
        row |= labels
        row |= {"method_name": run.config.method.name, "task": run.config.task}
        row["calib"] = run.config.calib.size if quantizes else None
        row["seed"] = run.config.seed if quantizes else None
    if run.result is not None:
        metrics, size = run.result.metrics, run.result.size
        row |= metrics.model_dump()
        if run.result.published_top1 is not None:
            row["published_top1"] = run.result.published_top1
        if (cosine := row.get("cosine")) is not None:
            row |= {"drop_cosine": 100 - cosine, "fp_cosine": 100.0}
        row |= {"mb": size.quantized_bytes / 1e6, "fp_mb": size.fp_bytes / 1e6, "seconds": run.result.timings.total}
        steps = [spent for name, spent in run.result.timings.stages.items() if name.startswith("steps.")]
        # Of a run that an earlier attempt began they are not known.
        row["quantize_seconds"] = sum(steps) if steps and not run.result.timings.resumed else None
        row |= {"weight_bits": size.mean_weight_bits, "activation_bits": size.mean_activation_bits}
        row["bits"] = _as_run(str(row["bits"]), size.mean_weight_bits, size.mean_activation_bits)
        if (cost := run.result.cost) is not None:
            row |= {"gbops": cost.bops / 1e9, "integer_share": cost.integer_share}
            row |= {"weight_mb": cost.weight_bytes / 1e6, "activation_mb": cost.activation_bytes / 1e6}
    return row


def _labels(configs: Mapping[str, RunConfig], hidden: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """Signature → {model, data, method, bits, protocol}: names, made unique where the same name means two things.

    hidden: keys that never do.
    """
    ordered = _orders(configs)
    flat = {s: dict(_flatten(canonical(config))) | ordered[s] for s, config in configs.items()}

    def varies(key: str, signatures: Sequence[str]) -> bool:
        calibrated = [s for s in signatures if configs[s].method.quantizes]
        values = {repr(flat[s].get(key)) for s in (key in _OF_CALIBRATION and calibrated) or signatures}
        scored = {str(configs[s].data.fingerprint).rpartition("-")[2] for s in signatures}
        return len(values) > 1 or (key == "data.fingerprint" and len(scored) > 1)

    def differing(part: str, group: Callable[[RunConfig], tuple[str, ...]]) -> dict[str, str]:
        members: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for signature, config in configs.items():
            members[group(config)].append(signature)
        texts = {}
        for signatures in members.values():
            keys = dict.fromkeys(
                k for s in signatures for k in flat[s] if _part(k) == part and k not in {*_SHOWN, *hidden}
            )
            vary = [k for k in keys if varies(k, signatures)]
            if "model.weights" in vary:  # the weights stand for how they were trained, where they tell all apart
                less = [k for k in vary if not k.startswith("model.train.")]
                apart = (len({repr([flat[s].get(k) for k in some]) for s in signatures}) for some in (less, vary))
                vary = less if len({*apart}) == 1 else vary
            for signature in signatures:
                short = (f"{k.removeprefix(part + '.')}={_short(flat[signature].get(k))}" for k in vary)
                texts[signature] = ", ".join(short)
        return texts

    model = differing("model", lambda c: (network_name(c),))
    data = differing("data", lambda c: (network_name(c), c.data.name))
    method = differing("method", lambda c: (network_name(c), c.method.name))
    bits = differing("bits", lambda c: (network_name(c), bits_label(c)))
    # Nothing but the full-precision runs lacks these keys: compare the others among themselves.
    protocol = differing("protocol", lambda c: (c.task, str(c.method.quantizes)))
    return {
        signature: {
            "model": _join(network_name(config), model[signature]),
            "data": _join(config.data.name, data[signature]),
            "method": _join(config.method.name, ", ".join(filter(None, [method[signature], protocol[signature]]))),
            "bits": _join(bits_label(config), bits[signature]),
            "protocol": protocol[signature],
        }
        for signature, config in configs.items()
    }


def _orders(configs: Mapping[str, RunConfig]) -> dict[str, dict[str, str]]:
    """Signature → the order of its steps, and of its patterns for sites, where another run has another one."""
    named: dict[tuple[str, str], tuple[tuple[object, ...], tuple[str, ...]]] = {}
    for signature, config in configs.items():
        for key, order in orders(config).items():
            owner = bits_label(config) if _part(key) == "bits" else config.method.name
            named[signature, key] = (key, network_name(config), owner, frozenset(order)), tuple(order)
    seen: dict[tuple[object, ...], set[tuple[str, ...]]] = defaultdict(set)
    for group, names in named.values():
        seen[group].add(names)
    labels: dict[str, dict[str, str]] = defaultdict(dict)
    for (signature, key), (group, names) in named.items():
        if len(seen[group]) > 1:
            labels[signature][f"{key}.order"] = " > ".join(names)
    return labels


def _as_run(label: str, weight: float, activation: float) -> str:
    """The label with 32 where nothing was quantized: a step that is switched off leaves W3A8 with float weights."""
    for letter, bits in (("W", weight), ("A", activation)):
        if bits >= _FLOAT:
            label = re.sub(rf"{letter}\d+", f"{letter}{_FLOAT}", label, count=1)
    return label


def _separate(rows: Sequence[dict[str, Any]], planned: Mapping[str, str]) -> None:
    """Add the planned bits where runs of different ones now share a label: they are no seeds of one cell.

    Nor are runs of one seed, whatever they differ in: these get the first digits of their signature.
    """
    for members in _by(rows, CELL):
        if len({planned.get(row["signature"]) for row in members}) > 1:
            for row in members:
                if row["bits"] != (label := planned.get(row["signature"], row["bits"])):
                    row["bits"] = _join(row["bits"], label)
    for members in _by(rows, [*CELL, "seed"]):
        for row in members if len(members) > 1 else ():
            if row["method"] != "?":
                row["method"] = _join(row["method"], row["signature"][:8])


def _by(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[list[dict[str, Any]]]:
    """The rows that agree in these keys, together."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row.get(key) for key in keys)].append(row)
    return list(groups.values())


def _part(key: str) -> str:
    head = key.split(".", 1)[0]
    if head == "task":  # the same images, scored otherwise
        return "data"
    return head if head in ("model", "data", "method", "bits") else "protocol"


def _flatten(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _short(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    text = str(value)
    return text[:8] if re.fullmatch(r"[0-9a-f]{32,}", text) else text


def _join(name: str, difference: str) -> str:
    return f"{name} ({difference})" if difference else name
