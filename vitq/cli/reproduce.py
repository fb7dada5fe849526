"""`vitq reproduce`: a paper's figures made again, ours beside the published ones."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any, TextIO

from vitq.cli import options
from vitq.cli.output import print_line

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from vitq.planning.plan import Plan
    from vitq.store import Store
    from vitq.store.reproductions import ReproductionRecord

EXAMPLES = """\
  vitq reproduce repq_vit --model deit_tiny data.root=IMAGENET             all bit-widths that the paper has
  vitq reproduce ias_vit --table 1 --bits W3A3 data.root=IMAGENET --dry-run     hours and memory, nothing is started
  vitq reproduce ias_vit --method qdrop data.root=IMAGENET                 another method of its tables
  vitq reproduce repq_vit --public-code data.root=IMAGENET                 as the public code is, where it differs
  vitq reproduce repq_vit --task detection data.root=COCO --checkpoints DIR     its table of COCO: AP box and mask
  vitq reproduce ias_vit --model mask_rcnn_swin_tiny data.root=COCO model.checkpoint=FILE.pth
  vitq reproduce repq_vit --model deit_tiny data.root=IMAGENET 'seed=range(3)' launcher=slurm
"""


def parser() -> argparse.ArgumentParser:
    parser = options.parser(
        "reproduce",
        "Execute a paper's protocol and print its figures beside ours: full precision first, before any method runs, "
        "then each figure as drop and top-1, with an interval, a verdict, and what is not as in the paper.",
        EXAMPLES,
    )
    parser.add_argument("paper", metavar="PAPER", help="e.g. repq_vit, ias_vit, erq: a source of `vitq published`")
    parser.add_argument("--method", metavar="METHOD", help="of its tables (default: the paper's own)")
    parser.add_argument("--table", metavar="TABLE", help='e.g. 1 for "Table 1" (default: all)')
    parser.add_argument(
        "--task",
        choices=("classification", "detection"),
        help="whose tables (default: that of --model or --table, else classification)",
    )
    parser.add_argument("--model", action="append", default=[], metavar="M", help="may be given several times")
    parser.add_argument("--bits", action="append", default=[], metavar="W4A4", help="may be given several times")
    parser.add_argument("--public-code", action="store_true", help="repeat what public code does otherwise than papers")
    parser.add_argument(
        "--checkpoints",
        metavar="DIR",
        help="of detectors: folder with their weights as released, MODEL_patch4_window7.pth of each model",
    )
    parser.add_argument("--name", metavar="SWEEP", help="name of the sweep (default: reproduce_PAPER)")
    names = ("overrides", "--config-dir", "--dry-run", "--again", "--detach")
    return options.add(parser, *names, json="figures, intervals and verdicts")


def main(args: argparse.Namespace) -> int:
    """Execute. Raises VitqError for whatever is wrong before the start."""
    from vitq.cli.output import console

    if not args.json:
        return _reproduce(args, console(), sys.stdout)
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        return _reproduce(args, console(stderr=True), out)


def _reproduce(args: argparse.Namespace, console: Console, out: TextIO) -> int:
    from vitq.cli import execute
    from vitq.cli.preview import preview
    from vitq.planning import reproduction
    from vitq.store.reproductions import write_reproduction

    request = reproduction.PaperRequest(
        paper=args.paper,
        method=args.method,
        table=args.table,
        models=args.model,
        bits=args.bits,
        public_code=args.public_code,
        overrides=args.overrides,
        name=args.name,
        config_dir=args.config_dir,
        task=args.task,
        checkpoints=args.checkpoints,
    )
    typed = shlex.join(["vitq", *args.argv])
    plan, record = reproduction.make(request, args.again, typed)
    if record.unknown:
        print_line(console, f"the protocol of {record.paper} is not known in full: {record.unknown}")
    for line in record.unlike:
        print_line(console, line)
    if args.dry_run:
        preview(plan, args.json, out)
        return 0
    for line in plan.warnings:
        print(f"vitq: {line}", file=sys.stderr)
    plan.commit(typed)
    if not plan.part:  # else the record of all figures stays
        write_reproduction(plan.store, record)
    if args.detach:
        return execute.perform(plan, args)
    failed = _launch(plan, record, console)
    if args.json:
        print(_json(plan, record), file=out)
    else:
        _print(plan, record, console)
    if not plan.part:  # else the page of all figures stays
        print_line(console, f"page     {_write_page(plan.store, record)}")
    return 1 if failed else 0


def _write_page(store: Store, record: ReproductionRecord) -> Path:
    """The comparison as Markdown, in the sweep's folder."""
    from vitq.report import reproduction as comparison
    from vitq.store.atomic import write_bytes

    path = store.sweep_folder(record.name) / "reproduction.md"
    write_bytes(path, comparison.markdown(store, record).encode())
    return path


def _launch(plan: Plan, record: ReproductionRecord, console: Console) -> list[str]:
    """Full precision first, and what it says; then the rest. Signatures of failed runs."""
    from vitq.planning import display
    from vitq.planning.launcher import launch
    from vitq.report.reproduction import opening

    references = record.references
    failed = []
    for first in (True, False):
        part = [run for run in plan.runs if (run.signature in references) is first]
        if part:
            show = display.make(console, str(plan.name), len(part))
            failed += launch(dataclasses.replace(plan, runs=tuple(part)), show)
        if first:
            for line in opening(plan.store, record):
                print_line(console, line)
    return failed


def _print(plan: Plan, record: ReproductionRecord, console: Console) -> None:
    from rich.table import Table

    from vitq.report import reproduction as comparison

    # 80 columns hold it; where it is wider a cell is broken, never cut.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left")
    table.title = f"{record.name}: {record.method}, ours beside published"
    ours = comparison.contents(plan.store, record)
    for head in ours.head:
        table.add_column(head, overflow="fold")
    for row in ours.rows:
        table.add_row(*row)
    console.print(table)
    for line in [*ours.first, ours.note]:
        print_line(console, line)
    print_line(console, "not as in the paper:")
    for line in ours.caveats:
        print_line(console, f"  {line}")


def _json(plan: Plan, record: ReproductionRecord) -> str:
    from vitq.report import reproduction as comparison

    ours = comparison.contents(plan.store, record)
    document: dict[str, Any] = {
        "sweep": record.name, "paper": record.paper, "method": record.method, "runs_dir": str(plan.store.root),
        **ours.plain, "deviations": ours.caveats,
    }  # fmt: skip
    return json.dumps(document, indent=2)
