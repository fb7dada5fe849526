"""Which method is best here: the first sentence of a report, with its evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from vitq.report import wording
from vitq.report.accuracy_table import primary, summary
from vitq.report.comparison import SAME, belonging, flipped, verdict
from vitq.report.correction import corrected

_SETTING = ["model", "data", "bits", "calib"]


def which_method(df: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """A sentence for each model, bit-width and calibration size at which several methods were compared.

    df: from `table`; pairs: from `pairwise`. The best is chosen by the figures that it is compared with, so each
    setting is corrected for all pairs of its methods. Nothing is pooled over models, bits or calibration sizes.
    """
    compared: dict[Hashable, tuple[str, pd.DataFrame]] = {}
    for _, part in df[df["state"] == "done"].groupby(["model", "data"], sort=False):
        score, scored = primary(part)
        means = summary(scored)
        compared |= {key: (score, here) for key, here in means.groupby(_SETTING, sort=False, dropna=False)}
    shown = wording.with_data(pairs)["model"]
    lines = []
    for key, rows in pairs[pairs["note"] == ""].groupby(_SETTING, sort=False, dropna=False):
        score, here = compared[key]
        values = here.set_index("method")["top1"]
        best = _best(rows) if score != "top-1" else str(values[values.index.isin({*rows["a"], *rows["b"]})].idxmax())
        shown_as = f"{values[best]:.2f} %" if score == "top-1" else f"{score} {values[best]:.2f}"
        family = [row.to_dict() for _, row in corrected(rows).iterrows()]
        rivals = [row if row["a"] == best else flipped(row) for row in family if best in (row["a"], row["b"])]
        calib = "" if rows["calib"].isna().all() else f", {key[3]} calibration images"
        lines.append(f"{shown[rows.index[0]]} at {key[2]}{calib}: {_sentence(best, shown_as, rivals)}")
    return lines


def _best(rows: pd.DataFrame) -> str:
    """The method whose images' own average precision is the highest: that of the whole set may rank them otherwise."""
    lead: Counter[str] = Counter()
    for a, b, difference in zip(rows["a"], rows["b"], rows["difference"], strict=True):
        lead[str(a)] += difference
        lead[str(b)] -= difference
    return max(lead, key=lambda method: lead[method])


def _sentence(best: str, score: str, rivals: Sequence[Mapping[Any, Any]]) -> str:
    """rivals: rows of `corrected`, the best minus another method each."""
    same = [row for row in rivals if verdict(row) == SAME]
    beaten = len(rivals) - len(same)
    if not same:
        nearest = min(rivals, key=lambda row: float(row["difference"]))
        return f"{best} is best ({score}), {_against(nearest)}"
    nearest = min(same, key=lambda row: float(row["difference"]))
    names = ", ".join(str(row["b"]) for row in same)
    others = f"; it is better than {beaten} other{'s' if beaten > 1 else ''}" if beaten else ""
    return f"{best} is highest ({score}), and no difference is shown to {names}: {_against(nearest)}{others}"


def _against(row: Mapping[Any, Any]) -> str:
    difference = f"{wording.signed(float(row['difference']))} points {belonging(row)}"
    of = f", corrected for {row['family']} pairs" if row["family"] > 1 else ""
    return f"{difference} from {row['b']}, p {wording.p_value(float(row['p_holm']))}{of}"
