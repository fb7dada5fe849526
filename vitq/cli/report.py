"""`vitq report`: a sweep's report, written from the store alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitq.cli import options

EXAMPLES = """\
  vitq report demo                                     all formats, under runs/sweeps/demo/
  vitq report demo --format html --out ~/public_html
  vitq report demo --format md --format latex
"""

FORMATS = ("html", "csv", "md", "latex")


def parser() -> argparse.ArgumentParser:
    """Arguments of `vitq report`."""
    usage = "SWEEP [--format html|csv|md|latex] [--out DIR] [--runs-dir DIR]"
    parser = options.parser("report", "Write the report of a sweep and print where it lies.", EXAMPLES, usage)
    parser.add_argument(
        "sweep", metavar="SWEEP", help="name of a sweep that was started (`multirun` for `vitq run -m`)"
    )
    parser.add_argument("--format", action="append", choices=FORMATS, help="may be given several times (default: all)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder to write to (default: RUNS_DIR/sweeps/SWEEP)")
    options.runs_dir(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    """Write and print the paths. Raises StoreError when there is no such sweep."""
    from vitq import report
    from vitq.store import Store

    formats = tuple(args.format or FORMATS)
    for path in report.build(Store(args.runs_dir), args.sweep, formats=formats, out=args.out).values():
        print(path)
    return 0
