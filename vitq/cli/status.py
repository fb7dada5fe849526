"""`vitq status`: where the runs of a sweep stand, by the store; a scheduler is asked for hints."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import Counter
from typing import TYPE_CHECKING

from vitq.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from vitq.store import Store
    from vitq.store.run import JobState, RunState

EXAMPLES = """\
  vitq status                               all sweeps, one line each
  vitq status demo
  vitq status demo --watch                  redrawn every two seconds until nothing is left to do
  vitq status demo --json
"""

_STYLE = {"done": "green", "failed": "red", "unreadable": "red", "running": "cyan", "interrupted": "yellow"}
# Runs that a live table lists; further ones are only counted, so that it fits a screen.
_WATCHED = 30
# Seconds between two questions to a scheduler.
_ASK = 15.0


def parser() -> argparse.ArgumentParser:
    parser = options.parser("status", "Where the runs of a sweep stand.", EXAMPLES)
    parser.add_argument("sweep", nargs="?", **options.SHARED["sweep"])
    parser.add_argument("--watch", metavar="SECONDS", nargs="?", type=float, const=2.0, help="redraw until it ends")
    return options.add(parser, "--runs-dir", json="states")


def main(args: argparse.Namespace) -> int:
    """Print the states. Raises StoreError when there is no such sweep."""
    from vitq.planning.launcher import LAUNCHERS
    from vitq.store import Run, Store

    store = Store(args.runs_dir)
    if args.sweep is None:
        return _all(store, args.json)
    record = store.read_sweep(args.sweep)

    known: dict[str, JobState] = {}

    def read() -> list[RunState]:
        rows = [Run(store.run(name), known.get(name)).read_state() for name in record.signatures]
        # A run's config does not say what the sweep varies; its plan does.
        return [dataclasses.replace(row, run=record.labels.get(row.signature, row.run)) for row in rows]

    def ask() -> float:
        known.clear()
        unfinished = {row.signature for row in read() if row.state != "done"}
        for name in LAUNCHERS:
            known.update(LAUNCHERS[name].state(store, unfinished))
        return time.monotonic()

    asked = ask()

    if args.json:
        rows = read()
        runs = [dataclasses.asdict(row) for row in rows]
        print(json.dumps({"sweep": record.name, "command": record.command, "counts": _counts(rows), "runs": runs}))
        return 0
    from rich.console import Console

    console = Console()
    if args.watch is None:
        console.print(table(record.name, read()))
        return 0
    from rich.live import Live

    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            rows = read()
            live.update(table(record.name, rows, _WATCHED), refresh=True)
            waits = (row.signature in known and not known[row.signature].ended for row in rows if row.state != "done")
            if not any(row.state in ("planned", "running") for row in rows) and not any(waits):
                return 0
            time.sleep(args.watch)
            if time.monotonic() - asked > _ASK:
                asked = ask()


def _counts(rows: Sequence[RunState]) -> dict[str, int]:
    return dict(Counter(row.state for row in rows))


def table(name: str, rows: Sequence[RunState], most: int | None = None) -> RenderableType:
    """The runs for rich's console; with `most`, what is under way or went wrong first, the others only counted."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Column, Table
    from rich.text import Text

    from vitq.config.labels import star_note
    from vitq.report.numbers import scores

    order = ("running", "failed", "unreadable", "interrupted", "planned", "done")
    shown = sorted(rows, key=lambda row: order.index(row.state))[:most] if most else rows
    heading, values = scores([(row.score, row.value) for row in shown])
    title = escape(f"sweep {name}")
    out = Table(Column("run", overflow="fold"), title=title, title_justify="left")  # variants differ at their ends
    for column in ("state", heading, "stage", "left", "signature"):
        out.add_column(column)
    for row, value in zip(shown, values, strict=True):
        state = f"[{_STYLE.get(row.state, 'default')}]{row.state}[/]"
        stage = "; ".join(filter(None, (row.stage, row.job)))
        out.add_row(escape(row.run), state, value, escape(stage), _left(row.eta), row.signature)
    reasons = [Text(f"{row.signature}  {row.error}", overflow="fold") for row in shown if row.error]
    total = ", ".join(f"{count} {state}" for state, count in _counts(rows).items())
    more = f"; {len(rows) - len(shown)} more are not listed" if len(shown) < len(rows) else ""
    notes = [Text(note)] if (note := star_note(row.run for row in shown)) else []
    return Group(out, *notes, *reasons, Text(f"{total} of {len(rows)} runs{more}"))


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


def _all(store: Store, as_json: bool) -> int:
    from vitq.store import Run

    records, broken = store.read_sweeps()
    listed = {signature for record in records for signature in record.signatures}
    states = {name: Run(store.run(name)).read_state() for name in listed}
    counts = {record.name: _counts([states[name] for name in record.signatures]) for record in records}
    if as_json:
        print(json.dumps(counts | {name: {"unreadable": 1} for name in broken}))
        return 1 if broken else 0
    for name, states_of in counts.items():
        print(f"{name}: {', '.join(f'{count} {state}' for state, count in states_of.items()) or 'no runs'}")
    for name, error in broken.items():
        print(f"{name}: {error}")
    single = len(set(store.signatures()) - listed)
    if single:
        print(f"{single} run{'s' if single > 1 else ''} in no sweep: vitq list runs")
    elif not counts and not broken:
        print(f"no sweep was started with {store.root}; start one with `vitq sweep demo`")
    return 1 if broken else 0
