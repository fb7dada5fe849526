"""This process, one run after another."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic.dataclasses import dataclass

from vitq import track
from vitq.config.base import RULES
from vitq.errors import VitqError
from vitq.machine import visible_gpus
from vitq.planning.display import Show
from vitq.planning.engine import engine
from vitq.planning.estimate import History
from vitq.planning.launcher import LAUNCHERS, Launcher, Preview
from vitq.planning.plan import Plan, PlannedRun
from vitq.store.claim import Claim

# Seconds between two looks at runs that another process executes.
_LOOK = 0.5


@dataclass(frozen=True, config=RULES)
class InlineOptions:
    """`launcher.options`: none."""


@LAUNCHERS.register("inline")
class Inline(Launcher):
    """Executes runs in this process. A failed run is recorded in its folder, shown, and the next one is started.

    A run that another living process has claimed (the same sweep started twice, two sweeps that share runs) is left to
    it; at the end this one waits for those, and takes over what a process that died left.
    """

    Options: ClassVar[type] = InlineOptions
    is_here = True

    def preview(self, runs: Sequence[PlannedRun], history: History) -> Preview:
        return Preview(min(1, len(runs)), 1, min(1, len(visible_gpus())), "inline: this process, one run after another")

    def launch(self, plan: Plan, show: Show) -> list[str]:
        failed = []
        trackers: dict[object, track.Tracker] = {}
        for run, claim in _claimed(plan, show):
            run_dir = plan.store.run(run.signature)
            if claim is None:
                status = run_dir.status_hint()
                reason = status.error if status else "no reason known"
                show.failed(run, VitqError(f"failed in another process: {reason}"))
                failed.append(run.signature)
                continue
            with claim:
                wanted = run.config.tracker
                if wanted not in trackers:
                    trackers[wanted] = track.make(wanted)
                progress = show.running(run)
                try:
                    result = engine().execute(run_dir, progress, trackers[wanted], group=plan.name)
                except Exception as error:  # noqa: BLE001 - whatever stops one run must not stop the sweep
                    # The job records failures inside a run; this is for what fails before it gets so far.
                    run_dir.fail(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))
                    show.failed(run, error)
                    failed.append(run.signature)
                else:
                    show.finished(run, result)
        return failed


def _claimed(plan: Plan, show: Show) -> Iterator[tuple[PlannedRun, Claim | None]]:
    """The runs to execute, each with its claim; those of other processes last, when these are through or dead.

    None in place of the claim: another process has tried the run since this one began, and it failed there.
    """
    left = list(plan.runs)
    attempts: dict[str, int] = {}
    while left:
        others = []
        for run in left:
            run_dir = plan.store.run(run.signature)
            if run_dir.is_done():
                show.skipped(run)
                continue
            if run_dir.failure_after(attempts.setdefault(run.signature, run_dir.attempt)):
                yield run, None
                continue
            claim = Claim.take(run_dir)
            if claim is None:
                others.append(run)
            elif run_dir.is_done():  # finished between the question and the claim
                claim.release()
                show.skipped(run)
            else:
                yield run, claim
        left = others
        if left:
            time.sleep(_LOOK)
