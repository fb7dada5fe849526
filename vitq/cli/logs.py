"""`vitq logs`: what a run wrote while it was executed."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from vitq.cli import options

if TYPE_CHECKING:
    from vitq.store import Run

EXAMPLES = """\
  vitq logs 3f09                      a signature, or its beginning as far as it is unique
  vitq logs 3f09 --follow             until the run ends
  vitq logs 3f09 --traceback          why it failed, and nothing else
"""


def parser() -> argparse.ArgumentParser:
    parser = options.parser("logs", "Print the log of a run, all attempts in order.", EXAMPLES)
    options.add(parser, "signature")
    parser.add_argument("--follow", "-f", action="store_true", help="go on printing until the run ends")
    parser.add_argument("--traceback", action="store_true", help="the traceback of the last failure alone")
    return options.add(parser, "--runs-dir")


def main(args: argparse.Namespace) -> int:
    """Print. Raises StoreError for an unknown or ambiguous signature; exit code 1 where there is no traceback."""
    from vitq.store import Store

    run = Store(args.runs_dir).find(args.signature)
    if args.traceback:
        status = run.dir.read_status()
        if status is None or status.traceback is None:
            print(f"run {run.signature} has not failed", file=sys.stderr)
            return 1
        print(status.traceback, end="")
        return 0
    _print(run, args.follow)
    return 0


def _print(run: Run, follow: bool) -> None:
    printed = 0
    while True:
        # Asked before the log is read, so that nothing that the run wrote before its end is left out.
        ended = run.state not in ("planned", "running")
        text = run.log
        sys.stdout.write(text[printed:])
        sys.stdout.flush()
        printed = len(text)
        if not follow or ended:
            return
        time.sleep(0.5)
