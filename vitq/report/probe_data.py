"""What probes left of the runs of a sweep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from vitq.errors import StoreError
from vitq.plots.landscape_views import Arrays
from vitq.report import wording

if TYPE_CHECKING:
    from vitq.store import Store


def read_probe(store: Store, df: pd.DataFrame, name: str) -> dict[str, Arrays]:
    """Signature → arrays of every finished run that has this probe in a readable state."""
    found = {}
    for signature in df.loc[df["state"] == "done", "signature"]:
        try:
            arrays = store.run(str(signature)).read_probe(name)
        except StoreError:
            continue  # the page shows what there is; `vitq probe` makes the picture anew
        if arrays is not None:
            found[str(signature)] = arrays
    return found


def by_model(
    df: pd.DataFrame, probed: dict[str, Arrays], most: int
) -> Iterator[tuple[str, list[tuple[str, Arrays]], int]]:
    """(model, [(label, arrays)] of its first `most` probed runs, number of probed runs).

    Of runs that differ by the seed alone the first is taken: their pictures differ little.
    """
    for model, part in wording.placed(df[df["signature"].isin(list(probed))]).groupby("model", sort=False):
        labels: dict[str, Arrays] = {}
        for _, row in part.iterrows():
            told_apart = part["calib"].nunique() > 1 and not pd.isna(row["calib"])
            calib = f", {row['calib']:g} calibration images" if told_apart else ""
            labels.setdefault(f"{row['method']} {row['bits']}{calib}", probed[str(row["signature"])])
        yield str(model), list(labels.items())[:most], len(labels)
