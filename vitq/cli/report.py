"""`vitq report`: a sweep's report, written from the store alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vitq.cli import options
from vitq.report import ALL_FORMATS, FORMATS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitq.store import Store

EXAMPLES = """\
  vitq report demo                                      under runs/sweeps/demo/
  vitq report demo --format html --out ~/public_html
  vitq report demo --format md --format latex
  vitq report demo ablate_ias_vit                       one report over both
  vitq report demo --format results --out docs/results  a page for documents: tables, versions, signatures
  vitq report demo --compare repq_vit minmax            which is better, in one line for each model and bit-width
  vitq report demo --along calib.size                   every two calibration sizes, all else equal
  vitq report abl --along method.steps.stage1.enabled --compare true false
"""


def parser() -> argparse.ArgumentParser:
    parser = options.parser("report", "Write the report of sweeps and print where it lies.", EXAMPLES)
    text = "name of a sweep that was started (`multirun` for `vitq run -m`); several make one report"
    parser.add_argument("sweeps", metavar="SWEEP", nargs="+", help=text)
    text = f"may be given several times (default: {', '.join(FORMATS)})"
    parser.add_argument("--format", action="append", choices=ALL_FORMATS, help=text)
    text = "print whether method A is better than B instead"
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help=text)
    text = "compare the values of a key of the config instead, runs that differ in it and their seed alone"
    parser.add_argument("--along", metavar="KEY", help=f"{text}, e.g. calib.size; A and B are then two of them")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder to write to (default: RUNS_DIR/sweeps/SWEEP)")
    return options.add(parser, "--runs-dir")


def main(args: argparse.Namespace) -> int:
    """Write and print the paths. Raises StoreError when there is no such sweep."""
    from vitq import report
    from vitq.store import Store

    if args.along:
        return _along(Store(args.runs_dir), args.sweeps, args.along, args.compare or ())
    if args.compare:
        return _compare(Store(args.runs_dir), args.sweeps, *args.compare)
    formats = tuple(args.format or FORMATS)
    for path in report.build(Store(args.runs_dir), args.sweeps, formats=formats, out=args.out).values():
        print(path)
    return 0


def _along(store: Store, sweeps: Sequence[str], key: str, asked: Sequence[str]) -> int:
    from vitq.report.axes import along
    from vitq.report.comparison import sentence

    for _, row in along(store, sweeps, key, asked).iterrows():
        print(sentence(row.to_dict()))
    return 0


def _compare(store: Store, sweeps: Sequence[str], a: str, b: str) -> int:
    from vitq.errors import VitqError
    from vitq.report.comparison import answers
    from vitq.report.contents import Report

    report = Report.of(store, sweeps)
    table, pairs = report.df, report.pairs
    methods = {*pairs["a"], *pairs["b"]}
    valid = f"valid: {', '.join(sorted(methods))}" if methods else f"{report.name} has no two finished methods yet"
    if a == b:
        text = f"--compare {a} {b}: two different methods are needed; {valid}"
        raise VitqError(text, "--compare", (a, b), methods)
    for name in (a, b):
        if name not in methods and name in {*table.loc[table["bits"] == "FP", "method"]}:
            text = (
                f"--compare {a} {b}: {name} is full precision, the reference of all runs; the report's tables have the "
                f"change from it beside each accuracy. Two quantized methods are compared; {valid}"
            )
            raise VitqError(text, "--compare", name, methods)
    print("\n".join(answers(pairs, a, b)) or f"{a} and {b} never met under the same model, bits and calibration size")
    return 0
