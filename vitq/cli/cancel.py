"""`vitq cancel`: end what executes the runs of a sweep. Finished runs stay, the others can go on later."""

from __future__ import annotations

import argparse
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from vitq.cli import options

if TYPE_CHECKING:
    from vitq.store import Store

EXAMPLES = """\
  vitq cancel demo                its driver, its SLURM jobs, and the processes on this machine that execute runs of it
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
    """Signal every process to stop. Exit code 1 when one is on another machine, where no signal reaches it."""
    from vitq.store import Store, claim
    from vitq.store.atomic import host_id
    from vitq.store.drivers import drivers

    store = Store(args.runs_dir)
    record = store.read_sweep(args.sweep)
    elsewhere = False
    signalled: set[int] = set()
    for driver in drivers(store, args.sweep):  # first, so that nothing is started again
        if driver.host == host_id():
            _signal(driver.pid, signal.SIGTERM, signalled)
            print(f"the driver, process {driver.pid}, was told to stop")
        else:
            print(f"a driver runs on {driver.host}, process {driver.pid}: cancel it there")
            elsewhere = True
    jobs = _cancel_jobs(store, args.sweep)
    for signature in record.signatures:
        holder = claim.holder(store.run(signature))
        if holder is None:
            continue
        if holder.host == host_id():
            _signal(holder.pid, signal.SIGINT, signalled)
            print(f"{signature} process {holder.pid} was told to stop")
        elif not jobs:
            print(f"{signature} runs on {holder.host}, process {holder.pid}: cancel it there")
            elsewhere = True
    if not signalled and not elsewhere and not jobs:
        print(f"nothing of {args.sweep} is being executed")
    return 1 if elsewhere else 0


def _cancel_jobs(store: Store, sweep: str) -> list[str]:
    from vitq.planning.launcher import LAUNCHERS

    jobs: list[str] = []
    for name in LAUNCHERS:
        ended = LAUNCHERS[name].cancel(store, sweep)
        if ended:
            print(f"cancelled {len(ended)} {name.upper()} job{'s' if len(ended) > 1 else ''}: {', '.join(ended)}")
        jobs += ended
    return jobs


def _signal(pid: int, number: int, signalled: set[int]) -> None:
    if pid not in signalled:
        signalled.add(pid)
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, number)
