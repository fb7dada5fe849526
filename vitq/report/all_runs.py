"""The page's table of all runs of one task: every figure, and where the run itself is to be seen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pandas as pd

from vitq.errors import StoreError
from vitq.report import wording
from vitq.report.contents import Report
from vitq.store import mirror_record

# (column of the table of runs, heading, digits or None for text).
Column = tuple[str, str, int | None]
_WHAT: tuple[Column, ...] = (
    ("model", "model", None), ("data", "data", None), ("method", "method", None), ("bits", "bits", None),
    ("calib", "calibration images", 0), ("seed", "seed", 0), ("state", "state", None),
)  # fmt: skip
_OF_CLASSIFIERS: tuple[Column, ...] = (
    ("top1", "top\u20111, %", 2), ("drop", "drop, points", 2), ("top5", "top\u20115, %", 2),
    ("agreement", "agreement, %", 2), ("kl", "KL, nats", 4), ("nll", "NLL, nats", 4),
)  # fmt: skip
_OF_DETECTORS: tuple[Column, ...] = tuple(
    (f"{name}_{what}", f"{heading} {what}, {unit}", 2)
    for what in ("box", "mask")
    for name, heading, unit in (("ap", "AP", "%"), ("drop", "drop", "points"), ("fidelity", "fidelity", "%"))
)
_OF_FEATURES: tuple[Column, ...] = (
    ("cosine", "feature cosine, %", 2), ("relative_error", "relative error of features, %", 2),
    ("knn_top1", "k-NN top-1, %", 2), ("drop_knn", "k-NN drop, points", 2), ("knn_agreement", "k-NN agreement, %", 2),
)  # fmt: skip
_BY_TASK = {"detection": _OF_DETECTORS, "segmentation": _OF_DETECTORS, "features": _OF_FEATURES}
_OF_ALL: tuple[Column, ...] = (
    ("weight_bits", "weight bits, mean", 2), ("activation_bits", "activation bits, mean", 2), ("mb", "size, MB", 3),
    ("gbops", "10⁹ bit operations", 1), ("integer_share", "int8 share of MACs, %", 1),
    ("weight_mb", "weights, MB", 3), ("activation_mb", "activations of an image, MB", 3),
    ("seconds", "time, s", 2), ("n_eval", "evaluation images", 0), ("signature", "signature", None),
)  # fmt: skip


@dataclass(frozen=True)
class RunsTable:
    """columns, and of each run its cells and its links (word → address)."""

    task: str
    columns: list[Column]
    rows: list[tuple[list[dict[str, Any]], dict[str, str]]]


def all_runs(report: Report, live: Mapping[str, Any] | None) -> RunsTable:
    """The table of a report of one task. live: see `vitq.report.page`."""
    df = report.df
    columns = [*_WHAT, *_BY_TASK.get(report.task, _OF_CLASSIFIERS), *_OF_ALL]
    columns = [column for column in columns if column[0] in df]
    rows = [(_cells(row, columns), _links(report, str(row["signature"]), live)) for _, row in df.iterrows()]
    return RunsTable(report.task, columns, rows)


def _cells(row: pd.Series, columns: list[Column]) -> list[dict[str, Any]]:
    cells = []
    for column, _, digits in columns:
        value = row[column]
        missing = bool(pd.isna(value))
        text = "–" if missing else str(value) if digits is None else wording.number(float(value), digits)
        cells.append({"text": text, "order": "" if missing else value, "column": column, "number": digits is not None})
    return cells


def _links(report: Report, signature: str, live: Mapping[str, Any] | None) -> dict[str, str]:
    """Where a run is to be seen: its folder, relative to the page, and its run at W&B, once that is known."""
    run = report.store.run(signature)
    links = {}
    if live is not None:
        links["files"] = f"/run/{quote(signature)}/"
    elif report.folder is not None:
        links["files"] = quote(os.path.relpath(run.path, report.folder)) + "/"
    try:
        known = mirror_record.read(run)
    except StoreError:
        known = None  # a hint: `vitq sync` says what is wrong with it
    if known is not None and known.url and known.url.startswith(("https://", "http://")):
        links["W&B"] = known.url
    return links
