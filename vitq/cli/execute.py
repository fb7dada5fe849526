"""What `run` and `sweep` share: plan, launch, table, and where to look."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import TYPE_CHECKING, TextIO

from vitq.cli.output import print_line

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from vitq.planning.compose import Primary
    from vitq.planning.launcher import Launcher
    from vitq.planning.plan import Plan


def execute(primary: Primary, args: argparse.Namespace, name: str | None = None) -> int:
    """Plan, launch and report; returns the exit code. With `args.json`, stdout gets one JSON document alone."""
    typed = shlex.join(["vitq", *args.argv])
    with _outputs(args) as (console, out):
        plan = _planned(primary, args, name, typed, console, out)
        if args.dry_run:
            from vitq.cli.preview import preview

            preview(plan, args.json, out)
            return 0
        for line in (*plan.notes, *plan.warnings):
            print(f"vitq: {line}", file=sys.stderr)
        plan.commit(typed)
        return _launch(plan, args, console, out)


def perform(plan: Plan, args: argparse.Namespace) -> int:
    """Launch a plan that is in its store already, and report; returns the exit code."""
    with _outputs(args) as (console, out):
        return _launch(plan, args, console, out)


@contextmanager
def _outputs(args: argparse.Namespace) -> Iterator[tuple[Console, TextIO]]:
    """Where text for people goes, and where results go. Nothing else that is printed reaches the reader of a JSON."""
    from vitq.cli.output import console

    out = sys.stdout
    with redirect_stdout(sys.stderr) if args.json else nullcontext():
        yield console(stderr=args.json), out


def _planned(
    primary: Primary, args: argparse.Namespace, name: str | None, typed: str, console: Console, out: TextIO
) -> Plan:
    from vitq.errors import ConfigError
    from vitq.planning import display, planner
    from vitq.planning.pilots import pilots_first

    def make() -> Plan:
        with console.status("planning") as status:

            def watch(cells: int) -> None:
                status.update(f"planning: {cells} configs checked")

            return planner.make(primary, name, watch, args.again, typed)

    try:
        return make() if args.dry_run else pilots_first(make, lambda name, runs: display.make(console, name, runs))
    except ConfigError as error:
        for line in primary.warnings:
            print(f"vitq: {line}", file=sys.stderr)
        if args.dry_run and not args.json:
            for signature, label in error.refused:
                print(f"{signature}  refused  {label}", file=out)
        raise


def _launch(plan: Plan, args: argparse.Namespace, console: Console, out: TextIO) -> int:
    from rich.text import Text

    from vitq.planning import display
    from vitq.planning.launcher import launch, launcher_of
    from vitq.planning.wording import count

    if plan.name:
        equal = f", {plan.cells} cells" if plan.cells != len(plan.runs) else ""
        runs = f"{count(len(plan.runs), 'run')}{equal}, {sum(run.done for run in plan.runs)} finished before"
        line = Text.assemble((plan.name, "bold"), f": {runs}; records under {plan.store.root}")
        console.print(line, highlight=False, soft_wrap=True)
    if getattr(args, "detach", False):
        return _detach(plan, launcher_of(plan), args, console, out)
    failed = launch(plan, display.make(console, plan.name or plan.runs[0].label, len(plan.runs)))
    if args.json:
        _print_json(plan, failed, out)
    elif plan.name:
        _print_table(plan, plan.name, console)
    else:
        _print_run(plan, console)
    _print_unprobed(plan, console)
    _print_warnings(plan, console)
    if failed:
        _print_failures(plan, failed, console)
    return 1 if failed else 0


def _detach(plan: Plan, launcher: Launcher, args: argparse.Namespace, console: Console, out: TextIO) -> int:
    from vitq.planning.display import Show

    message = launcher.detach(plan, Show(console, str(plan.name), len(plan.runs)))
    root = str(plan.store.root)
    where = "" if root == os.path.abspath("runs") else f" --runs-dir {shlex.quote(root)}"
    if args.json:
        print(json.dumps({"sweep": plan.name, "runs_dir": root, "detached": message}, indent=2), file=out)
    for line in (message, f"vitq status {plan.name} --watch{where}", f"vitq cancel {plan.name}{where}"):
        print_line(console, line)
    return 0


def _print_json(plan: Plan, failed: list[str], out: TextIO) -> None:
    if plan.name is None:
        result = plan.store.run(plan.runs[0].signature).read_result()
        if result is not None:
            print(result.to_json(), end="", file=out)
        return
    table = _table(plan, plan.name)
    rows = json.loads(table.to_json(orient="records", double_precision=15))
    document = {"sweep": plan.name, "runs_dir": str(plan.store.root), "failed": failed, "runs": rows}
    print(json.dumps(document, indent=2), file=out)


def _table(plan: Plan, sweep: str) -> pd.DataFrame:
    """Of the runs that were asked for; the report is of all that the sweep has."""
    from vitq import report

    table = report.table(plan.store, sweep)
    return table[table["signature"].isin([run.signature for run in plan.runs])] if plan.part else table


def _print_table(plan: Plan, sweep: str, console: Console) -> None:
    from vitq import report

    files = report.build(plan.store, sweep)  # first: the output may be full, or closed
    console.print(report.rich_table(_table(plan, sweep)))
    for kind, path in files.items():
        print_line(console, f"{_KINDS.get(kind, kind):<9}{path}")
    _print_tracker(plan, console)


_KINDS = {"html": "report", "csv": "CSV", "md": "Markdown", "latex": "LaTeX"}


def _print_run(plan: Plan, console: Console) -> None:
    from vitq.report.numbers import figures

    run = plan.runs[0]
    run_dir = plan.store.run(run.signature)
    result = run_dir.read_result()
    if result is None:
        return
    scores = figures(result.metrics.model_dump())
    size, seconds = f"{result.size.quantized_bytes / 1e6:.2f} MB", f"{result.timings.total:.1f} s"
    print_line(console, f"{run.label}: {scores}, {size}, {seconds}\nrecord   {run_dir.path}")
    _print_tracker(plan, console)


def _print_tracker(plan: Plan, console: Console) -> None:
    """Where W&B's offline runs lie and how to look at them."""
    from vitq import track

    config = plan.runs[0].config
    if config.tracker.name != "wandb" or config.tracker.mode != "offline":
        return
    folder = track.folder(config)
    if not any(folder.glob("offline-run-*")):
        return
    where, root = shlex.quote(str(folder)), shlex.quote(str(plan.store.root))
    print_line(console, f"W&B      {folder}\n         look: wandb leet {where}")
    print_line(console, f"         upload: vitq sync --runs-dir {root}")


# Lines of warnings that are printed; all are in the report.
_WARNINGS = 8


def _print_warnings(plan: Plan, console: Console) -> None:
    """What the results warn of and the plan could not know, such as full precision far from the published one."""
    labels: dict[str, list[str]] = {}
    for run in plan.runs:
        result = plan.store.run(run.signature).read_result()
        for line in result.warnings if result is not None else ():
            if line not in plan.warnings:
                labels.setdefault(line, []).append(run.label)
    for line, runs in list(labels.items())[:_WARNINGS]:
        of = "" if len(plan.runs) == 1 else f" [{runs[0]}]" if len(runs) == 1 else f" [{len(runs)} runs]"
        print_line(console, f"warning: {line}{of}")
    if len(labels) > _WARNINGS:
        print_line(console, f"{len(labels) - _WARNINGS} more warnings are in the report, or vitq show SIGNATURE")


def _print_unprobed(plan: Plan, console: Console) -> None:
    """A run that has its result is not executed, so that its probes are not either: say how to get them."""
    for run in plan.runs:
        missing = set(run.config.probe.wanted) - set(plan.store.run(run.signature).probes())
        if run.done and missing:
            wanted = shlex.quote(f"probe=[{','.join(sorted(missing))}]")
            words = f"vitq probe {run.signature} {wanted}"
            where = f"--runs-dir {shlex.quote(str(plan.store.root))}"
            print_line(console, f"{run.label} was finished before; probe it with: {words} {where}")


def _print_failures(plan: Plan, failed: list[str], console: Console) -> None:
    head = f"{len(failed)} of {len(plan.runs)} runs failed; the same command tries them again:"
    console.print(head, style="red", highlight=False)
    for signature in failed:
        run_dir = plan.store.run(signature)
        status = run_dir.read_status()
        error = status.error if status else "no status was recorded"
        print_line(console, f"  {signature}  {error}\n    {run_dir.log_path}")
