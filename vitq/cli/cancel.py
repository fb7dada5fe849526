"""`vitq cancel`: end what executes the runs of a sweep. Finished runs stay, the others can go on later."""

from __future__ import annotations

import argparse
import os
import signal

from vitq.cli import options

EXAMPLES = """\
  vitq cancel demo                the processes on this machine that execute runs of it
  vitq retry demo                 goes on from there
"""


def parser() -> argparse.ArgumentParser:
    """Arguments of `vitq cancel`."""
    text = "Terminate the processes that execute runs of a sweep. Results and finished blocks are kept."
    parser = options.parser("cancel", text, EXAMPLES, "SWEEP [--runs-dir DIR]")
    parser.add_argument("sweep", metavar="SWEEP", help="name of a sweep that was started")
    options.runs_dir(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    """Signal and say. Exit code 1 when some owner is on another machine, where no signal reaches it."""
    from vitq.store import Store, claim
    from vitq.store.atomic import host_id

    store = Store(args.runs_dir)
    elsewhere = False
    ended: set[int] = set()
    for signature in store.read_sweep(args.sweep).signatures:
        run_dir = store.run(signature)
        holder = claim.read(run_dir)
        if holder is None or claim.is_dead(holder, run_dir.claim_path):
            continue
        if holder.host != host_id():
            print(f"{signature} runs on {holder.host}, process {holder.pid}: cancel it there")
            elsewhere = True
            continue
        if holder.pid not in ended:
            ended.add(holder.pid)
            # A driver is interrupted as by Ctrl-C, so that it ends its own workers.
            os.kill(holder.pid, signal.SIGINT)
        print(f"{signature} process {holder.pid} was told to stop")
    if not ended and not elsewhere:
        print(f"nothing of {args.sweep} is being executed")
    return 1 if elsewhere else 0
