"""Pictures that probes left of runs, for the page: what no figure of the page itself draws."""

from __future__ import annotations

import base64
from typing import Any

import pandas as pd

from vitq.errors import StoreError
from vitq.report.probe_data import by_model, read_probe
from vitq.store import Store
from vitq.store.files import read_bytes

_SHOWN = {
    "hessian": ("Hessian", "Curvature of the loss around the quantized weights, of the probe hessian."),
    "sensitivity": (
        "Sensitivity of each site",
        "What a site alone costs when quantized, of the probe sensitivity.",
    ),
}
# Pictures of one model that a page holds.
MOST = 4


def probe_pictures(store: Store, df: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry for each probe that left pictures: title, note and pictures (label, png in base64)."""
    groups = []
    for probe, (title, note) in _SHOWN.items():
        pictures, cut = [], []
        probed = read_probe(store, df, probe)
        names = {id(arrays): name for name, arrays in probed.items()}
        for model, runs, total in by_model(df, probed, MOST):
            for label, arrays in runs:
                png = _picture(store, names[id(arrays)], probe)
                if png:
                    pictures.append({"label": f"{model} {label}", "png": png})
            if total > MOST:
                cut.append(f"Of {model} the first {MOST} of {total} probed runs.")
        if pictures:
            groups.append({"title": title, "note": " ".join([note, *cut]), "pictures": pictures})
    return groups


def _picture(store: Store, signature: str, probe: str) -> str:
    try:
        png = read_bytes(store.run(signature).probe_picture_path(probe))
    except StoreError:
        return ""  # `vitq probe` makes it anew
    return base64.b64encode(png).decode() if png else ""
