"""Published figures as text, CSV, LaTeX and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from vitq.published.cell import METRICS, MODELS, TAGS, Cell
from vitq.published.figures import Figures
from vitq.published.protocol import LABELS
from vitq.published.source import Statement
from vitq.published.spread import JOIN, Difference, Spread, differences

FORMATS = ("text", "csv", "latex", "json")


def figures(chosen: Figures, claims: Sequence[tuple[str, Statement]], form: str) -> str:
    """The chosen cells with their spreads and statements, in one of FORMATS; CSV and LaTeX hold the cells alone."""
    if form == "csv":
        return _csv(_long(chosen.cells))
    if form == "latex":
        return "\n".join(_latex(title, frame) for title, frame in _tables(chosen.cells))
    if form == "json":
        spreads = [_spread_record(spread) for spread in chosen.spreads()]
        said = [{"source": source, **dataclasses.asdict(claim)} for source, claim in claims]
        return _json({"cells": [dataclasses.asdict(cell) for cell in chosen.cells], "spreads": spreads, "claims": said})
    parts = [f"{title}\n{_text(frame)}" for title, frame in _tables(chosen.cells)] or ["no figure in our sources"]
    parts += [*_reasons(chosen.spreads()), *_notes(chosen.cells), *_sources(chosen)]
    parts += [f"{claim.method} ({source}, {_tags(claim.tags)}): {claim.text}" for source, claim in claims]
    return "\n\n".join(parts)


def overview(all_figures: Figures, form: str) -> str:
    """Number of cells and sources, and the baselines with the widest spread; CSV and LaTeX hold the latter alone."""
    widest = all_figures.widest()
    frame = pd.DataFrame([_row(spread) for spread in widest])
    if form == "csv":
        return _csv(frame)
    if form == "latex":
        return _latex("Baselines with the widest spread of published top-1, %", frame)
    read = {cell.source for cell in all_figures.cells}
    others = len(all_figures.sources) - len(read)
    counts = {"cells": len(all_figures.cells), "sources": len(read), "claims_only": others}
    if form == "json":
        return _json(counts | {"widest": [_spread_record(spread) for spread in widest]})
    methods, several = {cell.method for cell in all_figures.cells}, all_figures.spreads()
    read_from = f"{counts['cells']} cells of {len(read)} sources ({others} more have statements alone)"
    rows = f"{len(several)} baselines at one model and bit-width have several rows"
    head = f"{read_from}, {len(methods)} methods; {rows}\n\nwidest spread of top-1, points:"
    return f"{head}\n{_text(frame)}\n\nvitq published METHOD says why the rows differ"


def _row(spread: Spread) -> dict[str, object]:
    high, low = spread.cells[0], spread.cells[-1]
    return {
        "method": high.name,
        "model": high.model,
        "bits": high.bits,
        "spread": f"{spread.width:.{high.decimals}f}",
        "highest": high.text,
        "by (highest)": high.label,
        "lowest": low.text,
        "by (lowest)": low.label,
        "rows": len(spread.cells),
    }


def _tables(cells: Iterable[Cell]) -> list[tuple[str, pd.DataFrame]]:
    """(title, rows × models) of each bit-width and metric; a baseline with several rows has its spread below them."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.bits or "bits not stated", METRICS[cell.metric][0]].append(cell)
    return [(", ".join(key), _table(group)) for key, group in groups.items()]


def _table(cells: Sequence[Cell]) -> pd.DataFrame:
    models = [model for model in MODELS if any(cell.model == model for cell in cells)]
    baselines: dict[tuple[str, str], dict[tuple[object, ...], dict[str, Cell]]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        baselines[cell.baseline][cell.source, cell.table, cell.run_by, cell.tags, cell.note][cell.model] = cell
    rows: list[dict[str, str]] = []
    # One model: best first. Of several models no baseline is the best.
    highest = {key: max(c.value for line in lines.values() for c in line.values()) for key, lines in baselines.items()}
    for key in sorted(baselines, key=lambda key: -highest[key]) if len(models) == 1 else baselines:
        lines = baselines[key]
        of_baseline = [cell for line in lines.values() for cell in line.values()]
        for line in sorted(lines.values(), key=lambda line: -max(cell.value for cell in line.values())):
            first = next(iter(line.values()))
            printed = f"{first.source}, {first.table}" if first.table else first.source
            about = {
                "method": first.name,
                "printed in": printed,
                "run by": first.run_by or "",
                "tag": "".join(first.tags),
            }
            rows.append(about | {model: line[model].text if model in line else "" for model in models})
        if len(lines) > 1 and of_baseline[0].metric != "minutes":
            rows.append({"method": "  spread"} | _widths(of_baseline, models))
    if any(cell.full_precision is not None for cell in cells):
        rows.append({"method": "full precision"} | {model: _full_precision(cells, model) for model in models})
    return pd.DataFrame(rows).fillna("")


def _widths(cells: Sequence[Cell], models: Sequence[str]) -> dict[str, str]:
    widths = {}
    for model in models:
        values = [cell.value for cell in cells if cell.model == model]
        widths[model] = f"{max(values) - min(values):.{cells[0].decimals}f}" if len(values) > 1 else ""
    return widths


def _full_precision(cells: Sequence[Cell], model: str) -> str:
    stated = {c.full_precision: c.decimals for c in cells if c.model == model and c.full_precision is not None}
    return "/".join(f"{value:.{decimals}f}" for value, decimals in sorted(stated.items()))


def _text(frame: pd.DataFrame) -> str:
    """Columns of words to the left, of numbers to the right."""
    columns: dict[str, list[str]] = {str(name): [str(text) for text in frame[name]] for name in frame}
    for name, texts in list(columns.items()):
        if not any(text.replace(".", "").isdigit() for text in texts):
            width = max(map(len, [name, *texts]))
            columns[name.ljust(width)] = [text.ljust(width) for text in columns.pop(name)]
        else:
            columns[name] = columns.pop(name)  # keeps the order
    return pd.DataFrame(columns).to_string(index=False)


def _csv(frame: pd.DataFrame) -> str:
    """As text whose last line is ended by whoever prints it, like that of all formats."""
    return frame.to_csv(index=False).rstrip("\n")


def _latex(title: str, frame: pd.DataFrame) -> str:
    safe = title.replace("%", r"\%")
    return frame.to_latex(index=False, escape=True, caption=safe).replace("±", r"$\pm$")


def _reasons(spreads: Iterable[Spread]) -> list[str]:
    """Why rows differ, said once for all models of a baseline and bit-width whose rows come from the same sources."""
    groups: dict[tuple[object, ...], list[Spread]] = defaultdict(list)
    for spread in spreads:
        cell = spread.cells[0]
        if spread.width:
            groups[cell.name, cell.bits, cell.task, frozenset(c.label for c in spread.cells)].append(spread)
    return ["\n".join([_headline(group), *map(_reason, _differing(group))]) for group in groups.values()]


def _headline(group: Sequence[Spread]) -> str:
    cells = [spread.cells[0] for spread in group]
    models = ", ".join(dict.fromkeys(cell.model for cell in cells))
    widest = max(group, key=lambda spread: spread.width)
    at = f"{widest.width:.{cells[0].decimals}f} at {widest.cells[0].model}"
    nothing = "" if _differing(group) else " nothing that the sources state"
    return f"{cells[0].name}, {cells[0].bits}, {models} (up to {at}): rows differ in{nothing}"


def _differing(group: Sequence[Spread]) -> list[Difference]:
    differing = differences([cell for spread in group for cell in spread.cells])
    return sorted(differing, key=lambda difference: not difference.settled)


def _reason(difference: Difference) -> str:
    values = "; ".join(f"{_short(fact)} ({', '.join(labels)})" for fact, labels in difference.values.items())
    if difference.field == "run_by":
        values = ", ".join(difference.values)
    unknown = f"; not stated ({', '.join(difference.unknown)})" if difference.unknown else ""
    return f"  {'' if difference.settled else 'perhaps '}{difference.name}: {values}{unknown}"


def _short(fact: str) -> str:
    facts = fact.split(JOIN)
    return fact if len(facts) < 3 else f"{facts[0]} and others, by model"


def _notes(cells: Iterable[Cell]) -> list[str]:
    notes = {(cell.source, cell.name, cell.bits, cell.note): None for cell in cells if cell.note}
    notes |= {(cell.source, cell.method, None, str(cell.facts["note"])): None for cell in cells if "note" in cell.facts}
    lines = [f"  {source}, {name}{f', {bits}' if bits else ''}: {note}" for source, name, bits, note in notes]
    if union := sorted({cell.source for cell in cells if cell.full_precision_source == "union"}):
        lines.append(f"  full precision: the papers' common row; that of {', '.join(union)} itself was not read")
    return ["\n".join(["notes:", *lines])] if lines else []


def _sources(chosen: Figures) -> list[str]:
    names = sorted({name for cell in chosen.cells for name in (cell.source, cell.run_by) if name})
    lines = []
    for name in names:
        about = chosen.sources[name].source
        where = [about.venue, f"arXiv {about.arxiv}" if about.arxiv else None, about.doi, about.repository]
        lines.append(f"  {name}: {', '.join([about.name, *filter(None, where)])}. {about.about}")
    tags = sorted({tag for cell in chosen.cells for tag in cell.tags})
    return ["\n".join(["sources:", *lines, f"tags: {_tags(tags)}"])] if lines else []


def _tags(tags: Iterable[str]) -> str:
    return "; ".join(f"{tag} {TAGS[tag]}" for tag in tags)


def _spread_record(spread: Spread) -> dict[str, Any]:
    first = spread.cells[0]
    return {
        "method": first.method,
        "variant": first.variant,
        "model": first.model,
        "bits": first.bits,
        "metric": first.metric,
        "spread": spread.width,
        "rows": [{"label": cell.label, "value": cell.value} for cell in spread.cells],
        "differences": [dataclasses.asdict(d) | {"settled": d.settled} for d in spread.differences()],
    }


def _long(cells: Iterable[Cell]) -> pd.DataFrame:
    """One row for each cell, the facts of its protocol as columns."""
    rows = []
    for cell in cells:
        record = dataclasses.asdict(cell)
        facts = record.pop("facts")
        record["tags"] = "".join(cell.tags)
        rows.append(record | {f"protocol.{name}": facts.get(name) for name in LABELS})
    return pd.DataFrame(rows, dtype=object)  # whole numbers stay whole beside gaps


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
