"""End what executes the runs of a sweep: its driver, its jobs, and the processes on this machine."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from vitq.planning.launcher import LAUNCHERS
from vitq.planning.wording import count
from vitq.store import Store, claim
from vitq.store.atomic import host_id
from vitq.store.drivers import drivers


def cancel(store: Store, sweep: str) -> tuple[list[str], list[str]]:
    """Signal every process of a sweep to stop. Raises StoreError for an unknown sweep.

    Returns a line for each that was signalled, and for each on a machine that no signal reaches. Finished runs
    stay; the others go on from their last finished block when the sweep is started again.
    """
    record = store.read_sweep(sweep)
    ended: list[str] = []
    elsewhere: list[str] = []
    signalled: set[int] = set()
    for driver in drivers(store, sweep):  # first, so that nothing is started again
        if driver.host == host_id():
            _signal(driver.pid, signal.SIGTERM, signalled)
            ended.append(f"the driver, process {driver.pid}, was told to stop")
        else:
            elsewhere.append(f"a driver runs on {driver.host}, process {driver.pid}: cancel it there")
    jobs = {name: LAUNCHERS[name].cancel(store, sweep) for name in LAUNCHERS}
    for name, cancelled in jobs.items():
        if cancelled:
            ended.append(f"cancelled {count(len(cancelled), f'{name.upper()} job')}: {', '.join(cancelled)}")
    for signature in record.signatures:
        holder = claim.holder(store.run(signature))
        if holder is None:
            continue
        if holder.host == host_id():
            _signal(holder.pid, signal.SIGINT, signalled)
            ended.append(f"{signature} process {holder.pid} was told to stop")
        elif not any(jobs.values()):
            elsewhere.append(f"{signature} runs on {holder.host}, process {holder.pid}: cancel it there")
    return ended, elsewhere


def cancel_run(store: Store, signature: str) -> tuple[list[str], list[str]]:
    """Signal the process that executes one run. A process that drives a whole sweep stops with it, which is said.

    A SLURM job that has this run alone to do is cancelled; of another one the other runs would be lost. Returns as
    `cancel`.
    """
    ended: list[str] = []
    elsewhere: list[str] = []
    records, _ = store.read_sweeps()
    driven = {owner.pid: record.name for record in records for owner in drivers(store, record.name)}
    holder = claim.holder(store.run(signature))
    jobs = [(name, LAUNCHERS[name].cancel_run(store, signature)) for name in LAUNCHERS]
    for name, cancelled in jobs:
        ended += [f"cancelled {name.upper()} job {job}" for job in cancelled]
    if holder is not None and holder.host == host_id():
        _signal(holder.pid, signal.SIGINT, set())
        sweep = driven.get(holder.pid)
        also = f", which executes sweep {sweep} run by run," if sweep else ""
        ended.append(f"{signature} process {holder.pid}{also} was told to stop")
    elif holder is not None and not any(cancelled for _, cancelled in jobs):
        elsewhere.append(f"{signature} runs on {holder.host}, process {holder.pid}: cancel it there")
    return ended, elsewhere


def _signal(pid: int, number: int, signalled: set[int]) -> None:
    if pid not in signalled:
        signalled.add(pid)
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, number)
