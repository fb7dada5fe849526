"""Comparison along any axis: runs that differ in one key of their config and, as replicates, in their seed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from vitq.config import RunConfig, canonical, orders
from vitq.config.run import LATER
from vitq.config.sweep import lookup
from vitq.errors import VitqError, unknown
from vitq.plots.layout import finish
from vitq.plots.palette import band, style
from vitq.report.accuracy_table import primary
from vitq.report.comparison import compare_runs
from vitq.report.correction import CORRECTED, corrected
from vitq.report.paired_test import Predictions
from vitq.report.runs_table import records_of, table
from vitq.store import Store

# Words for sections of a config, which differ as a whole.
_WHOLE = {"method": "method.name", "model": "model.name", "calib": "calib.size"}


@dataclass(frozen=True)
class Group:
    """Runs that differ in the axis and the seed alone. where: what they share; runs: value → seed → signature; score:
    what they are compared by, e.g. `top-1`, `AP mask`; scores: by signature."""

    where: str
    runs: dict[str, dict[int, str]]
    score: str
    scores: pd.Series[float]

    def spread(self, value: str) -> tuple[float, float]:
        """Mean and sample standard deviation of the score over the seeds; 0 for one."""
        own = self.scores[list(self.runs[value].values())]
        return float(own.mean()), 0.0 if len(own) < 2 else float(own.std(ddof=1))


def groups(store: Store, sweeps: str | Sequence[str], key: str) -> list[Group]:
    """The groups of a sweep, or of several, along an axis: a dotted key (`calib.size`, `method.steps.stage1.enabled`),
    or `method`, `model`, `bits` as a whole. Raises VitqError for a key that no config has, for the seed, and where no
    two values meet."""
    if key == "seed":
        axes = [axis for record in records_of(store, sweeps) for axis in record.axes if axis != key]
        text = "--along seed: two seeds share no seed to be compared at; seeds are the replicates along any other axis"
        raise VitqError(f"{text}, here {', '.join(axes) or 'none'}", "--along", key, axes)
    df = table(store, sweeps).set_index("signature")
    known_key = False
    known: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for signature in df.index[df["bits"] != "FP"]:
        config, _ = RunConfig.parse(store.run(signature).read_config())
        if config is None or not _has(key, plain := _plain(config)):
            continue
        known_key = True
        if df.at[signature, "state"] == "done":
            same = [_without(key, canonical(config)), {} if key == "method" else orders(config)]
            known[json.dumps(same, sort_keys=True)].append((_value(key, plain), signature, config.seed))
    if not known_key:
        axes = [axis for record in records_of(store, sweeps) for axis in record.axes]
        raise VitqError(unknown("axis", key, axes, "Any key of a config is one.", key="--along"))
    several = [
        _group(df.loc[[signature for _, signature, _ in members]], _told_apart(key, members, df))
        for members in known.values()
        if len({signature for _, signature, _ in members}) > 1
    ]
    several = [group for group in several if len(group.runs) > 1]
    if not several:
        names = " and ".join(record.name for record in records_of(store, sweeps))
        raise VitqError(f"no two finished runs of {names} differ in {key} and the seed alone", "--along", key)
    return several


def along(store: Store, sweeps: str | Sequence[str], key: str, asked: Sequence[str] = ()) -> pd.DataFrame:
    """Every pair of values of an axis, or the two that are asked for, image by image over the common seeds.

    Columns as of `pairwise`, with `where` for where; corrected over the rows. Raises VitqError as `groups`, and for a
    value that the axis does not have.
    """
    known = groups(store, sweeps, key)
    values = list(dict.fromkeys(value for group in known for value in group.runs))
    for value in asked:
        if value not in values:
            raise VitqError(unknown(f"value of {key}", value, values, key="--compare"))
    if len(asked) != len(set(asked)):
        text = f"--compare {' '.join(asked)}: two different values of {key} are needed; valid: {', '.join(values)}"
        raise VitqError(text, "--compare", tuple(asked), values)
    predictions = Predictions(store)
    rows = []
    for group in known:
        wanted = [tuple(asked)] if asked else combinations(group.runs, 2)
        for a, b in wanted:
            if a in group.runs and b in group.runs:
                compared = compare_runs(group.runs[a], group.runs[b], predictions)
                rows.append({"where": group.where, "a": f"{key}={a}", "b": f"{key}={b}"} | compared)
    columns = ["where", "a", "b", "difference", "low", "high", "n", "seeds", "p", *CORRECTED, "note", "outcomes"]
    return corrected(pd.DataFrame(rows, columns=columns))


def figures(store: Store, sweeps: str | Sequence[str]) -> list[tuple[str, go.Figure]]:
    """(axis, figure) for each numeric axis of a sweep, or of several, with at least two values: mean score against
    it, in a band of ± sample standard deviation over seeds. Scores of different names are figures of their own."""
    drawn = []
    axes: dict[str, list[str]] = defaultdict(list)
    for record in records_of(store, sweeps):
        for key, values in record.axes.items():
            axes[key] += [value for value in values if value not in axes[key]]
    for key, values in axes.items():
        if key == "seed" or len(values) < 2 or not all(map(_number, values)):
            continue
        try:
            known = groups(store, sweeps, key)
        except VitqError:  # nothing of it has finished
            continue
        for score in dict.fromkeys(group.score for group in known):
            drawn.append((key, _figure(key, score, [group for group in known if group.score == score])))
    return drawn


def _figure(key: str, score: str, known: Sequence[Group]) -> go.Figure:
    figure = go.Figure()
    for index, group in enumerate(known):
        colour, symbol = style(index)
        figure.add_scatter(
            name=group.where,
            mode="lines+markers",
            x=[float(value) for value in group.runs],
            y=[group.spread(value)[0] for value in group.runs],
            marker={"color": colour, "symbol": symbol, "size": 9},
            line={"color": colour, "width": 1},
            legendgroup=group.where,
        )
        spread = [(float(value), *group.spread(value)) for value in group.runs]
        if any(std for _, _, std in spread):
            edge = [(x, mean + std) for x, mean, std in spread] + [(x, mean - std) for x, mean, std in reversed(spread)]
            figure.add_scatter(
                x=[x for x, _ in edge], y=[y for _, y in edge], mode="lines", line={"width": 0}, fill="toself",
                fillcolor=band(colour), hoverinfo="skip", showlegend=False, legendgroup=group.where,
            )  # fmt: skip
    values = [float(value) for group in known for value in group.runs]
    decades = min(values) > 0 and max(values) / min(values) > 20
    figure.update_xaxes(title=key, type="log" if decades else "linear")
    figure.update_yaxes(title=f"{score}, %")
    return finish(figure)


def _plain(config: RunConfig) -> dict[str, Any]:
    """A config with the keys that a record leaves out where they have their default."""
    plain: dict[str, Any] = {"task": config.task} | config.to_dict()
    return plain | {section: keys | plain[section] for section, keys in LATER.items()}


def _has(key: str, plain: dict[str, Any]) -> bool:
    try:
        lookup(_WHOLE.get(key, key), {}, plain)
    except KeyError:
        return False
    return True


def _value(key: str, plain: dict[str, Any]) -> str:
    value = lookup(_WHOLE.get(key, key), {}, plain) if key != "bits" else plain["bits"]
    if isinstance(value, str):
        return value
    if key == "bits" and isinstance(value, dict):
        return f"W{value['weight']}A{value['activation']}"
    return json.dumps(value)


def _without(key: str, plain: dict[str, Any]) -> dict[str, Any]:
    """A canonical config less the axis and the seed."""
    plain = json.loads(json.dumps(plain))
    plain.pop("seed", None)
    *parents, leaf = (key if key not in _WHOLE or key in ("method", "model") else _WHOLE[key]).split(".")
    node: Any = plain
    for parent in parents:
        node = node.get(parent, {})
    node.pop(leaf, None)
    return dict(plain)


def _where(rows: pd.DataFrame) -> str:
    """What some rows of the table share, in words."""
    method = "method" if rows["method"].nunique() == 1 else "method_name"
    if rows["bits"].nunique() > 1:  # W4A4 and W4A4* have W4A4 in common
        rows = rows.assign(bits=rows["bits"].str.extract(r"^(W\d+A\d+)", expand=False))
    shared = [str(rows[column].iloc[0]) for column in ("model", method, "bits") if rows[column].nunique() == 1]
    calib = [f"{rows['calib'].iloc[0]} calibration images"] if rows["calib"].nunique() == 1 else []
    return ", ".join([" ".join(shared), *calib])


def _group(rows: pd.DataFrame, members: Sequence[tuple[str, str, int]]) -> Group:
    score, scored = primary(rows)
    return Group(_where(rows), _by_value(members), score, scored["top1"])


def _told_apart(key: str, members: list[tuple[str, str, int]], df: pd.DataFrame) -> list[tuple[str, str, int]]:
    """The same, by the table's unique labels where a whole section has one name for several: W4A4 and W4A4 with
    exceptions, a method with two options, detectors of two sizes."""
    if len({(value, seed) for value, _, seed in members}) == len(members) or key not in df:
        return members
    return [(str(df.at[signature, key]), signature, seed) for _, signature, seed in members]


def _by_value(members: Sequence[tuple[str, str, int]]) -> dict[str, dict[int, str]]:
    runs: dict[str, dict[int, str]] = defaultdict(dict)
    for value, signature, seed in members:
        runs[value][seed] = signature
    return dict(sorted(runs.items(), key=lambda item: float(item[0]))) if all(map(_number, runs)) else dict(runs)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
