"""A page of results for the documents: the tables of a sweep, and all that is needed to make them again."""

from __future__ import annotations

import pandas as pd

from vitq.report import markdown, reproduction, study, wording
from vitq.report.accuracy_table import FIDELITIES, SCORES, bits_order
from vitq.report.contents import Report
from vitq.report.provenance import provenance
from vitq.store.reproductions import read_reproduction
from vitq.store.studies import read_study

# The first line of a page. MkDocs and GitHub hide it.
_HEAD = "<!-- Written by `vitq report {name} --format results`. Do not edit: run the command again. -->"
_SIGNATURE_HEAD = ("model", "method", "bits", "calib. images", "seed")
# Figures of the list of signatures, in percent: those that some run has.
_FIGURES = {name: own for name, (own, _, _) in SCORES.items()} | FIDELITIES


def page(report: Report) -> str:
    """The page as Markdown. Equal stores give equal pages; the name of the machine is left out.

    Of a study: its trials. Of a reproduction: ours beside published, before the tables that every sweep has.
    """
    df = report.df
    facts = provenance(report.store, report.records, df, host=False)
    parts = [
        _HEAD.format(name=" ".join(record.name for record in report.records)),
        f"# {report.name}",
        report.description,
        *_tables(report),
        "### Where these figures come from",
        markdown.grid(["fact", "value"], [[fact, "; ".join(values)] for fact, values in facts]),
        "### Signatures",
        "A signature is a hash of the whole config of a run (`vitq status SWEEP`, `runs/SIGNATURE/config.yaml`).",
        markdown.grid(*signatures(df), right_from=3),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tables(report: Report) -> list[str]:
    """Parts of the page that hold figures."""
    store, names = report.store, [record.name for record in report.records]
    studies = [tuned for name in names if (tuned := read_study(store, name)) is not None and tuned.finished]
    if len(studies) == len(names):
        return [study.markdown(tuned) for tuned in studies]
    ours = []
    for name in names:
        if (compared := read_reproduction(store, name)) is not None:
            ours += ["### Ours beside published", reproduction.section(store, compared).rstrip()]
    return [*ours, markdown.of_report(report).rstrip()]


def signatures(df: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and rows: one row per finished run of `df`, models and methods in the order of the plan, bits of each from
    wide to narrow."""
    done = wording.with_data(df[df["state"] == "done"])
    figures = {name: key for name, key in _FIGURES.items() if key in done and done[key].notna().any()}
    groups = done.groupby(["model", "method"], sort=False)
    ordered = [
        row
        for _, runs in groups
        for row in sorted((run for _, run in runs.iterrows()), key=lambda run: bits_order(str(run["bits"])))
    ]
    rows = [
        [
            *(str(row[key]) for key in ("model", "method", "bits")),
            *("" if pd.isna(row[key]) else str(row[key]) for key in ("calib", "seed")),
            *(wording.number(float(row[key])) for key in figures.values()),
            f"`{row['signature']}`",
        ]
        for row in ordered
    ]
    return [*_SIGNATURE_HEAD, *(f"{name}, %" for name in figures), "signature"], rows
