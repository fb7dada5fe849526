"""`vitq retry`: the runs of a sweep that have no result, once more, from their stored configs."""

from __future__ import annotations

import argparse

from vitq.cli import options

EXAMPLES = """\
  vitq retry demo                           all that have no result
  vitq retry demo --failed                  those that failed, not those that were never started
  vitq retry demo --timeout launcher.options.time=600    those that time limits ended, with more time
  vitq retry demo 3f09 77ab                 these, by signature or its beginning
"""


def parser() -> argparse.ArgumentParser:
    text = "Execute runs of a sweep again that have no result, from their stored configs, and print the table."
    parser = options.parser("retry", text, EXAMPLES)
    options.add(parser, "sweep")
    words = "these runs alone; with `=`, of the launcher, or where images and weights lie now (data.root=…)"
    parser.add_argument("words", metavar="SIGNATURE", nargs="*", help=words)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--failed", action="store_true", help="only runs that failed or were interrupted")
    which.add_argument("--timeout", action="store_true", help="only runs that were ended by time limits")
    return options.add(parser, "--runs-dir", "--detach", json="the table, one row per run,")


def main(args: argparse.Namespace) -> int:
    """Execute. Raises VitqError for an unknown sweep or run, and when nothing is left to do."""
    from vitq.cli import execute
    from vitq.planning import paths
    from vitq.planning.resume import stored_plan
    from vitq.store import Store

    store = Store(args.runs_dir)
    moved = [word for word in args.words if paths.is_path(word)]
    overrides = [word for word in args.words if "=" in word and word not in moved]
    only: set[str] | None = {store.find(name).signature for name in args.words if "=" not in name} or None
    if args.failed or args.timeout:
        states = [run.read_state() for run in store.runs_of(args.sweep)]
        ended = (run for run in states if run.state in ("failed", "interrupted", "unreadable"))
        chosen = {run.signature for run in ended if args.failed or run.timed_out}
        only = chosen if only is None else only & chosen
    for run in store.runs_of(args.sweep) if moved else ():
        if not run.is_done and (only is None or run.signature in only):
            paths.move(run.dir, moved)
    return execute.perform(stored_plan(store, args.sweep, only, overrides), args)
