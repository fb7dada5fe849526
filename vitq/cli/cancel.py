"""`vitq cancel`: end what executes the runs of a sweep, or one run. Finished runs stay, the others can go on later."""

from __future__ import annotations

import argparse

from vitq.cli import options

EXAMPLES = """\
  vitq cancel demo                its driver, its SLURM jobs, and the processes on this machine that execute runs of it
  vitq cancel 3f09                one run, by its signature or the beginning of it
  vitq retry demo                 goes on from there
"""


def parser() -> argparse.ArgumentParser:
    text = "Terminate the processes that execute the runs of a sweep, or one run. Results and finished blocks are kept."
    parser = options.parser("cancel", text, EXAMPLES)
    parser.add_argument("name", metavar="SWEEP|SIGNATURE", help="a sweep that was started, or a run of the store")
    return options.add(parser, "--runs-dir")


def main(args: argparse.Namespace) -> int:
    """Signal every process to stop. Exit code 1 when one is on another machine, where no signal reaches it.

    Raises StoreError for a name that is neither a sweep nor the beginning of one signature.
    """
    from vitq.errors import StoreError
    from vitq.planning.cancel import cancel, cancel_run
    from vitq.store import Store

    store = Store(args.runs_dir)
    if args.name in store.sweeps():
        ended, elsewhere = cancel(store, args.name)
    else:
        try:
            ended, elsewhere = cancel_run(store, store.find(args.name).signature)
        except StoreError as error:
            if error.problems[0].valid:  # several runs begin so
                raise
            store.read_sweep(args.name)  # names the sweeps that there are
            raise
    print("\n".join([*ended, *elsewhere] or [f"nothing of {args.name} is being executed"]))
    return 1 if elsewhere else 0
