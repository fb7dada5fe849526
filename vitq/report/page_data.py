"""What the page's own scripts work on: runs for the pivot table, verdicts, and the quality of each site."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pandas as pd

from vitq.report import wording
from vitq.report.comparison import between, flipped, sentence

DIMENSIONS = {
    "method": "method", "bits": "bits", "model": "model", "data": "data", "calib": "calibration images", "seed": "seed",
    "method_name": "method family", "state": "state",
}  # fmt: skip
# metric → (heading, digits).
METRICS: dict[str, tuple[str, int]] = {
    "top1": ("top-1, %", 2), "drop": ("drop, points", 2), "top5": ("top-5, %", 2), "agreement": ("agreement, %", 2),
    "kl": ("KL, nats", 4), "nll": ("NLL, nats", 4), "mb": ("size, MB", 3), "seconds": ("time, s", 1),
    "gbops": ("10⁹ bit operations", 1), "integer_share": ("int8 share of MACs, %", 1),
    "weight_mb": ("weights, MB", 3), "activation_mb": ("activations of an image, MB", 3),
    "weight_bits": ("weight bits, mean", 2), "activation_bits": ("activation bits, mean", 2),
}  # fmt: skip


def payload(
    df: pd.DataFrame, pairs: pd.DataFrame, sites: dict[str, pd.DataFrame], histograms: list[dict[str, Any]]
) -> str:
    """JSON for the page; `<` escaped, so that no name in the data can end the script element."""
    data = {
        "dimensions": DIMENSIONS,
        "metrics": METRICS,
        "runs": [_run(row) for _, row in df.iterrows()],
        "verdicts": _verdicts(wording.with_data(pairs)),
        "sites": _sites(df, sites),
        "histograms": histograms,
    }
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _run(row: pd.Series) -> dict[str, Any]:
    return {key: _plain(row[key], digits) for key, digits in _KEYS}


_KEYS: list[tuple[str, int | None]] = [
    *((key, None) for key in DIMENSIONS),
    *((key, digits + 2) for key, (_, digits) in METRICS.items()),
    ("signature", None),
    ("task", None),
]


def _plain(value: Any, digits: int | None = None) -> Any:
    if pd.isna(value):
        return None
    if isinstance(value, str):
        return value
    return int(value) if float(value).is_integer() else round(float(value), digits or 6)


def _verdicts(pairs: pd.DataFrame) -> list[dict[str, str]]:
    """What is said of A and B when they are chosen: the question is that pair, one of many among all of the page."""
    out = []
    for (a, b), rows in pairs.groupby(["a", "b"], sort=False):
        for (_, asked), (_, among) in zip(between(pairs, str(a), str(b)).iterrows(), rows.iterrows(), strict=True):
            p = wording.p_value(float(among["p_holm"]))
            more = f"; over all {among['family']} pairs of this page p (Holm) {p}"
            for side in (asked.to_dict(), flipped(asked.to_dict())):
                text = sentence(side) + (more if among["family"] > asked["family"] and not asked["note"] else "")
                out.append({"a": str(side["a"]), "b": str(side["b"]), "text": text})
    return out


def _sites(df: pd.DataFrame, sites: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Model → its site names and kinds once, and for each run the signal-to-noise ratio and width of every site."""
    out: dict[str, Any] = {}
    df = wording.with_data(df)
    for _, row in df[df["signature"].isin(list(sites)) & (df["bits"] != "FP")].iterrows():
        table = sites[str(row["signature"])]
        model = out.setdefault(str(row["model"]), {"names": [], "kinds": [], "ticks": [], "runs": []})
        if not model["names"]:
            model["names"], model["kinds"] = table["site"].tolist(), table["kind"].tolist()
            model["ticks"] = _ticks(model["names"])
        if table["site"].tolist() != model["names"]:
            continue  # a variant with other sites (a fully quantized one) does not fit this axis
        seed = "" if pd.isna(row["seed"]) else f", seed {row['seed']}"
        model["runs"].append(
            {
                "label": f"{row['method']} {row['bits']}{seed}",
                "width": str(row["bits"]),
                "method": str(row["method"]),
                "sqnr": [None if pd.isna(v) or math.isinf(v) else round(float(v), 1) for v in table["sqnr_db"]],
                "bits": [int(v) for v in table["bits"]],
            }
        )
    return out


def _ticks(names: list[str]) -> list[tuple[str, str]]:
    """(site, text) of the first site of each block, and of what stands outside of blocks: `blocks.3`, `head`."""
    ticks: dict[str, str] = {}
    for name in names:
        block = re.match(r"(?:\w+\.)*?(?:blocks|layers)\.\d+(?:\.blocks\.\d+)?", name)
        ticks.setdefault(block[0] if block else name.partition(".")[0], name)
    return [(name, text) for text, name in ticks.items()]
