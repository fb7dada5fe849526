"""What the runs of a sweep left beside their results: probes, tables of sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import pandas as pd

from vitq.errors import StoreError
from vitq.plots.landscape_views import Arrays
from vitq.report import wording
from vitq.store import Store

T = TypeVar("T")


def read_probe(store: Store, df: pd.DataFrame, name: str) -> dict[str, Arrays]:
    """Signature → arrays of every finished run that has this probe in a readable state."""
    return _of_runs(df, lambda signature: store.run(signature).read_probe(name))


def read_sites(store: Store, df: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Signature → table of sites of every finished run that has a readable one."""
    return _of_runs(df, lambda signature: store.run(signature).read_sites())


def _of_runs(df: pd.DataFrame, read: Callable[[str], T | None]) -> dict[str, T]:
    values = {}
    for signature in df.loc[df["state"] == "done", "signature"].astype(str):
        try:
            value = read(signature)
        except StoreError:
            continue  # the result stands without it: the page shows what is readable
        if value is not None:
            values[signature] = value
    return values


def by_model(
    df: pd.DataFrame, probed: dict[str, Arrays], most: int
) -> Iterator[tuple[str, list[tuple[str, Arrays]], int]]:
    """(model, [(label, arrays)] of its first `most` probed runs, number of probed runs).

    Of runs that differ by the seed alone the first is taken: their pictures differ little.
    """
    for model, part in wording.with_data(df[df["signature"].isin(list(probed))]).groupby("model", sort=False):
        labels: dict[str, Arrays] = {}
        for _, row in part.iterrows():
            differs = part["calib"].nunique() > 1 and not pd.isna(row["calib"])
            calib = f", {row['calib']:g} calibration images" if differs else ""
            labels.setdefault(f"{row['method']} {row['bits']}{calib}", probed[str(row["signature"])])
        yield str(model), list(labels.items())[:most], len(labels)
