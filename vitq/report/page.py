"""The report as one HTML page: nothing is fetched, so it can be mailed, archived and opened without a network."""

from __future__ import annotations

import base64
import gzip
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from vitq.report import ablation, allocation, axes, effort, figures, landscapes, study, wording
from vitq.report.accuracy_table import CELL, Matrix, matrices, scores, standard_error, summary
from vitq.report.all_runs import all_runs
from vitq.report.answer import which_method
from vitq.report.contents import Report
from vitq.report.distributions import histograms, left_out
from vitq.report.markdown import PAIRED_NOTE
from vitq.report.page_data import payload
from vitq.report.probe_data import Arrays, read_probe, read_sites
from vitq.report.probe_pictures import probe_pictures
from vitq.report.provenance import provenance


def page(report: Report, live: dict[str, Any] | None = None) -> str:
    """The page as text. live: where it is served, version and name of its sweep, milliseconds between two questions."""
    store, df, parts = report.store, report.df, report.parts
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.globals["words"] = wording
    environment.globals["isnan"] = math.isnan
    tables = matrices(df)
    sites = read_sites(store, df)
    distributions = read_probe(store, df, "distributions")
    seen = histograms(df, distributions)
    text = environment.get_template("page.html.j2").render(
        name=report.name,
        description=report.description,
        live=live,
        counts=wording.counts(df),
        answer=[line for part in parts for line in which_method(part.df, part.pairs)],
        matrices=[(matrix, _figures(i, matrix)) for i, matrix in enumerate(tables)],
        runs=[all_runs(part, live) for part in parts],
        seeds=[spread for part in parts for spread in _seeds(part.df)],
        efforts=effort.cells(effort.efforts(df)),
        effort_note=effort.NOTE,
        baseline=report.baseline,
        comparisons=[
            [_comparison(row) for _, row in part.comparisons.iterrows()]
            for part in parts
            if part.comparisons is not None and len(part.comparisons)
        ],
        paired_note=PAIRED_NOTE,
        unfinished=[(wording.where(row), row) for _, row in wording.unfinished(df).iterrows()],
        provenance=provenance(store, report.records, df),
        pairs=len(report.pairs),
        payload=Markup(payload(df, report.pairs, sites, seen)),
        has_histograms=bool(seen),
        histograms_cut=left_out(df, distributions),
        has_sites=any((df["bits"] != "FP") & df["signature"].isin(list(sites))),
        extra=_extra(report, sites, read_probe(store, df, "landscape")),
        pictures=probe_pictures(store, df),
        plotly=Markup(_plotly()),
    )
    return _with_contents(text)


def _with_contents(text: str) -> str:
    """The page with a list of its sections, each of which gets a name to link to."""
    titles: list[str] = []

    def named(match: re.Match[str]) -> str:
        titles.append(match[1])
        return f'<section id="part-{len(titles)}">\n<h2>{match[1]}</h2>'

    text = re.sub(r"<section>\n<h2>(.*?)</h2>", named, text)
    links = "".join(f'<li><a href="#part-{number}">{title}</a></li>' for number, title in enumerate(titles, 1))
    return text.replace("</header>", f'<nav aria-label="contents"><ul>{links}</ul></nav>\n</header>', 1)


@cache
def _plotly() -> str:
    """Plotly's script as gzip in base64: 1.9 MB instead of 4.7. The time stamp is fixed: equal pages, equal bytes."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _extra(report: Report, sites: dict[str, pd.DataFrame], probed: dict[str, Arrays]) -> list[dict[str, Any]]:
    """Groups of figures that only some sweeps have."""
    store, sweeps, df = report.store, [record.name for record in report.records], report.df
    groups = (
        ("Tuning", "Trials of vitq tune in the order in which they were asked for, and what their KL depends on.",
         "figures", [figure for sweep in sweeps for figure in study.figures(store, sweep)]),
        ("Accuracy against seconds", effort.NOTE, "figures", effort.figures(df)),
        ("Along an axis", "Runs that differ in one number and their seed alone: mean score, in a band of ± sample "
         "standard deviation over seeds. `vitq report SWEEP --along KEY` compares its values image by image.",
         "figures", axes.figures(store, sweeps)),
        ("Bit allocation", "Bits of every site (rows, in the order of the model) in every run (columns, first seed; "
         "those of equal bits are one). fp: left in floating point.", "tall", allocation.heat_maps(df, sites)),
        ("Ablations", "Variants of one method in the order of the sweep: the first in full, each further one as its "
         "change from the one before, the last in full again.", "figures", ablation.waterfalls(df)),
        ("Loss landscapes", "Of the probe landscape, first seed of each run, all on one logarithmic colour scale. "
         "Roughness: total variation over range; 1 is monotone, 2 a valley, more is rugged.", "tall",
         landscapes.side_by_side(df, probed)),
    )  # fmt: skip
    return [
        {"title": title, "note": note, "layout": layout, "figures": _drawn(title.replace(" ", "-").lower(), drawn)}
        for title, note, layout, drawn in groups
        if drawn
    ]


def _figures(index: int, matrix: Matrix) -> list[dict[str, Any]]:
    if not any(cell and cell.n for row in matrix.rows for cell in row.cells):
        return []
    drawn = [("Accuracy per bit-width", figures.dots(matrix)), ("Size and accuracy", figures.scatter(matrix))]
    return _drawn(f"figure-{index}", drawn)


def _drawn(name: str, drawn: list[tuple[str, go.Figure]]) -> list[dict[str, Any]]:
    # `<` as an escape, so that no name in the data can end the script element.
    return [
        {"id": f"{name}-{n}", "title": title, "json": Markup(figure.to_json().replace("<", "\\u003c"))}
        for n, (title, figure) in enumerate(drawn)
    ]


def _seeds(df: pd.DataFrame) -> list[tuple[str, list[dict[str, Any]]]]:
    """(score, rows) of the cells of one task with more than one seed, for the tables of spreads."""
    tables = []
    for score, scored in scores(df):
        cells = summary(scored)
        rows = []
        for _, row in cells[cells["runs"] > 1].iterrows():
            n_eval = 0 if pd.isna(row["n_eval"]) or score != "top-1" else int(row["n_eval"])
            label = [("–" if pd.isna(row[key]) else row[key]) for key in CELL]
            numbers = {key: row[key] for key in ("n", "runs", "top1", "top1_std", "drop")}
            rows.append(numbers | {"label": label, "standard_error": standard_error(row["top1"], n_eval)})
        tables += [(score, rows)] if rows else []
    return tables


def _comparison(row: pd.Series) -> dict[str, Any]:
    blank = {key: "–" for key in ("calib", "seed", "gained", "lost") if pd.isna(row[key])}
    # Colour only what stands after correction for the number of comparisons.
    verdict = "" if not row["p_holm"] < 0.05 else "better" if row["difference"] > 0 else "worse"
    return {str(key): value for key, value in row.items()} | blank | {"verdict": verdict}
