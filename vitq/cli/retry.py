"""`vitq retry`: the runs of a sweep that have no result, once more, from their stored configs."""

from __future__ import annotations

import argparse

from vitq.cli import options

EXAMPLES = """\
  vitq retry demo                           all that have no result
  vitq retry demo --failed                  those that failed, not those that were never started
  vitq retry demo 3f09 77ab                 these, by signature or its beginning
"""


def parser() -> argparse.ArgumentParser:
    """Arguments of `vitq retry`."""
    usage = "SWEEP [SIGNATURE ...] [--failed] [--detach] [--runs-dir DIR] [--json]"
    text = "Execute runs of a sweep again that have no result, from their stored configs, and print the table."
    parser = options.parser("retry", text, EXAMPLES, usage)
    parser.add_argument("sweep", metavar="SWEEP", help="name of a sweep that was started")
    parser.add_argument("signatures", metavar="SIGNATURE", nargs="*", help="these runs alone")
    parser.add_argument("--failed", action="store_true", help="only runs that failed or were interrupted")
    options.runs_dir(parser)
    options.detach(parser)
    options.as_json(parser, "the table, one row per run,")
    return parser


def main(args: argparse.Namespace) -> int:
    """Execute. Raises VitqError for an unknown sweep or run, and when nothing is left to do."""
    from vitq.cli import execute
    from vitq.standing import standing
    from vitq.store import Store
    from vitq.stored import stored_plan

    store = Store(args.runs_dir)
    only: set[str] | None = {store.find(name).signature for name in args.signatures} or None
    if args.failed:
        states = {s: standing(store.run(s)).state for s in store.read_sweep(args.sweep).signatures}
        failed = {s for s, state in states.items() if state in ("failed", "interrupted", "unreadable")}
        only = failed if only is None else only & failed
    return execute.perform(stored_plan(store, args.sweep, only), args)
