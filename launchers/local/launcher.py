"""`launcher=local`: one slot for each visible GPU, or several on CPU, each with a worker process of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from vitq.launchers.local import slots
from vitq.launchers.local.queue import Queue
from vitq.machine import visible_gpus
from vitq.planning.display import Show
from vitq.planning.estimate import History
from vitq.planning.launcher import LAUNCHERS, Launcher, Preview
from vitq.planning.plan import Plan, PlannedRun
from vitq.planning.wording import count


@LAUNCHERS.register("local")
class Local(Launcher):
    """Executes runs in worker processes of this machine. A worker that dies takes its own run with it and no other."""

    Options: ClassVar[type] = slots.LocalOptions
    is_here = sees_one_gpu = True
    options: slots.LocalOptions

    def preview(self, runs: Sequence[PlannedRun], history: History) -> Preview:
        environments, devices = slots.slot_environments(self.options), len(visible_gpus())
        count_ = len(environments)
        parallel = min(count_, len(runs))
        processes = max(parallel, math.ceil(len(runs) / self.options.runs_per_process))
        share = devices / count_
        on = f"{share:.3g} GPU each" if devices else f"{count(int(environments[0]['OMP_NUM_THREADS']), 'thread')} each"
        text = f"local: {count(processes, 'process', 'processes')}, {count(count_, 'slot')}, {on}"
        return Preview(processes, parallel, share, text)

    def launch(self, plan: Plan, show: Show) -> list[str]:
        queue = Queue(plan, show, self.options)
        try:
            queue.work()
        finally:
            queue.stop()
        return list(queue.failed)
