"""What `run` and `sweep` share: plan, launch, table, and where to look."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from vitq.planning.compose import Primary
    from vitq.planning.launcher import Launcher
    from vitq.planning.plan import Plan


def execute(primary: Primary, args: argparse.Namespace, name: str | None = None) -> int:
    """Plan, launch and report; returns the exit code. With `args.json`, stdout gets one JSON document alone."""
    from rich.console import Console

    out = sys.stdout
    if not args.json:
        return _execute(primary, args, name, Console(), out)
    # Libraries that print must not reach the reader of the JSON.
    with redirect_stdout(sys.stderr):
        return _execute(primary, args, name, Console(stderr=True), out)


def _execute(primary: Primary, args: argparse.Namespace, name: str | None, console: Console, out: TextIO) -> int:
    from vitq.cli.preview import preview
    from vitq.errors import ConfigError
    from vitq.planning import display, planner
    from vitq.planning.pilots import pilots_first

    def make() -> Plan:
        with console.status("planning") as status:
            return planner.make(
                primary, name, lambda cells: status.update(f"planning: {cells} configs checked"), args.again
            )

    try:
        plan = make() if args.dry_run else pilots_first(make, lambda name, runs: display.make(console, name, runs))
    except ConfigError as error:
        if args.dry_run and not args.json:
            for signature, label in error.refused:
                print(f"{signature}  refused  {label}", file=out)
        raise
    if args.dry_run:
        preview(plan, args.json, out)
        return 0
    for line in plan.warnings:
        print(f"vitq: {line}", file=sys.stderr)
    plan.commit(shlex.join(["vitq", *args.argv]))
    return _launch(plan, args, console, out)


def perform(plan: Plan, args: argparse.Namespace) -> int:
    """Launch a plan that is in its store already, and report; returns the exit code."""
    from rich.console import Console

    out = sys.stdout
    if not args.json:
        return _launch(plan, args, Console(), out)
    with redirect_stdout(sys.stderr):
        return _launch(plan, args, Console(stderr=True), out)


def _launch(plan: Plan, args: argparse.Namespace, console: Console, out: TextIO) -> int:
    from vitq.planning import display
    from vitq.planning.launcher import launch, launcher_of

    _announce(plan, console)
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
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def _announce(plan: Plan, console: Console) -> None:
    done = sum(run.done for run in plan.runs)
    equal = f", {plan.cells} cells" if plan.cells != len(plan.runs) else ""
    if plan.name:
        runs = f"{len(plan.runs)} run{'s' if len(plan.runs) != 1 else ''}{equal}, {done} finished before"
        console.print(f"[bold]{plan.name}[/]: {runs}; records under {plan.store.root}", highlight=False, soft_wrap=True)


def _print_json(plan: Plan, failed: list[str], out: TextIO) -> None:
    if plan.name is None:
        result = plan.store.run(plan.runs[0].signature).read_result()
        if result is not None:
            print(result.to_json(), end="", file=out)
        return
    from vitq import report

    table = report.table(plan.store, plan.name)
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    print(
        json.dumps({"sweep": plan.name, "runs_dir": str(plan.store.root), "failed": failed, "runs": rows}, indent=2),
        file=out,
    )


def _print_table(plan: Plan, sweep: str, console: Console) -> None:
    from vitq import report

    console.print(report.rich_table(report.table(plan.store, sweep)))
    files = report.build(plan.store, sweep)
    for kind, path in files.items():
        console.print(f"{_KINDS.get(kind, kind):<9}{path}", highlight=False, markup=False, soft_wrap=True)
    _print_tracker(plan, console)


_KINDS = {"html": "report", "csv": "CSV", "md": "Markdown", "latex": "LaTeX"}


def _print_run(plan: Plan, console: Console) -> None:
    run = plan.runs[0]
    run_dir = plan.store.run(run.signature)
    result = run_dir.read_result()
    if result is None:
        return
    scores = f"top-1 {result.metrics.top1} %, drop {result.metrics.drop} points"
    line = f"{run.label}: {scores}, {result.size.quantized_bytes / 1e6:.2f} MB, {result.timings.total:.1f} s"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"record   {run_dir.path}", highlight=False, markup=False, soft_wrap=True)
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
    where = shlex.quote(str(folder))
    console.print(f"W&B      {folder}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"         look: wandb leet {where}", highlight=False, markup=False, soft_wrap=True)
    root = shlex.quote(str(plan.store.root))
    console.print(f"         upload: vitq sync --runs-dir {root}", highlight=False, markup=False, soft_wrap=True)


def _print_unprobed(plan: Plan, console: Console) -> None:
    """A run that has its result is not executed, so that its probes are not either: say how to get them."""
    for run in plan.runs:
        missing = set(run.config.probe.wanted) - set(plan.store.run(run.signature).probes())
        if run.done and missing:
            words = f"vitq probe {run.signature} probe=[{','.join(sorted(missing))}]"
            where = f"--runs-dir {shlex.quote(str(plan.store.root))}"
            line = f"{run.label} was finished before; probe it with: {words} {where}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def _print_failures(plan: Plan, failed: list[str], console: Console) -> None:
    console.print(
        f"{len(failed)} of {len(plan.runs)} runs failed; the same command tries them again:",
        style="red",
        highlight=False,
    )
    for signature in failed:
        run_dir = plan.store.run(signature)
        status = run_dir.read_status()
        error = status.error if status else "no status was recorded"
        console.print(f"  {signature}  {error}\n    {run_dir.log_path}", highlight=False, markup=False, soft_wrap=True)
