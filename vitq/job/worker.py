"""The command line of jobs, `python -m vitq.job`: runs one after another, each under its claim."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from vitq import signals, track
from vitq.errors import VitqError, brief
from vitq.job.execute import execute
from vitq.job.run_log import RunLog
from vitq.progress import Progress
from vitq.store import Run, RunDir, Store
from vitq.store.claim import Claim, release_own
from vitq.track import Tracker

# Seconds after which a signal to stop is raised again, in case its exception was swallowed: less than launchers wait.
_INSIST = 3.0


def _tracker(run_dir: RunDir) -> Tracker:
    """The tracker that a stored config asks for. What keeps it from being made is recorded like any other failure."""
    try:
        return track.make(Run(run_dir).config.tracker)
    except VitqError as error:
        RunLog(run_dir, Progress()).fail(error)
        raise


def main(argv: Sequence[str] | None = None) -> int:
    """Run the given signatures one after another; exit code 1 when one of them failed.

    A signal to stop (`signals.STOPPING`) ends the run under way: its status says so, its state and its claim are in
    order, and the exit code is 128 + the signal's number.
    """
    parser = argparse.ArgumentParser(prog="python -m vitq.job", description=__doc__)
    parser.add_argument("--runs-dir", required=True, help="the store, e.g. runs")
    parser.add_argument("--group", default=None, help="name of the sweep, for the tracker")
    parser.add_argument("signatures", nargs="*", metavar="SIGNATURE")
    parser.add_argument(
        "--feed", type=int, metavar="FD", help="signatures come from stdin; how each ended goes to this descriptor"
    )
    parser.add_argument(
        "--take-over", action="store_true", help="wait for runs whose owner on another machine is silent, and take them"
    )
    args = parser.parse_args(argv)
    if bool(args.signatures) == (args.feed is not None):
        parser.error("give the signatures of planned runs, or --feed FD")
    try:
        with signals.interruptible(_INSIST):
            return _attempt_all(Store(args.runs_dir), args)
    except signals.Interrupted as stop:
        print(f"{stop}; finished blocks are kept", file=sys.stderr)
        return 128 + stop.number


def _attempt_all(store: Store, args: argparse.Namespace) -> int:
    if args.feed is not None:
        with os.fdopen(args.feed, "w") as answers:
            for line in sys.stdin:
                name = line.strip()
                print(name, _attempt(store.run(name), args.group), file=answers, flush=True)
        return 0
    ended = {name: _attempt(store.run(name), args.group) for name in args.signatures}
    if args.take_over:
        busy = [name for name, word in ended.items() if word == "busy"]
        ended |= {name: _attempt(store.run(name), args.group, Claim.take_over) for name in busy}
    return 1 if any(word.startswith("failed") for word in ended.values()) else 0


def _attempt(run_dir: RunDir, group: str | None, take: Callable[[RunDir], Claim | None] = Claim.take) -> str:
    """Execute a run under its claim. `done`, `busy` (another process is at it), or `failed` and the error in one line.

    An error stops this run alone: the next signature still runs, and the record holds the traceback.
    """
    name = run_dir.signature
    try:
        claim = None if run_dir.is_done() else take(run_dir)
        if claim is None:
            done = run_dir.is_done()
            print(f"{name} is {'finished' if done else 'executed by another process'}; skipped", file=sys.stderr)
            return "done" if done else "busy"
        with claim:
            if run_dir.is_done():  # finished between the question and the claim
                return "done"
            try:
                execute(run_dir, Progress(), _tracker(run_dir), group)
            except Exception as error:  # noqa: BLE001 - see above
                print(f"{name} failed: {error}", file=sys.stderr)
                return f"failed {brief(error)}"
        return "done"
    except signals.Interrupted:
        signals.acknowledge()
        release_own(run_dir)
        raise
