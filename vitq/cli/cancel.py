"""`vitq cancel`: end what executes the runs of a sweep. Finished runs stay, the others can go on later."""

from __future__ import annotations

import argparse

from vitq.cli import options

EXAMPLES = """\
  vitq cancel demo                its driver, its SLURM jobs, and the processes on this machine that execute runs of it
  vitq retry demo                 goes on from there
"""


def parser() -> argparse.ArgumentParser:
    text = "Terminate the processes that execute runs of a sweep. Results and finished blocks are kept."
    return options.add(options.parser("cancel", text, EXAMPLES), "sweep", "--runs-dir")


def main(args: argparse.Namespace) -> int:
    """Signal every process to stop. Exit code 1 when one is on another machine, where no signal reaches it."""
    from vitq.planning.cancel import cancel
    from vitq.store import Store

    ended, elsewhere = cancel(Store(args.runs_dir), args.sweep)
    print("\n".join([*ended, *elsewhere] or [f"nothing of {args.sweep} is being executed"]))
    return 1 if elsewhere else 0
