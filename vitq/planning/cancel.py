"""End what executes the runs of a sweep: its driver, its jobs, and the processes on this machine."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field

from vitq.planning.launcher import LAUNCHERS
from vitq.store import Store, claim
from vitq.store.atomic import host_id
from vitq.store.drivers import drivers


@dataclass
class Cancelled:
    """ended: what was told to stop, one line each. elsewhere: what runs on machines that no signal reaches."""

    ended: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)


def cancel(store: Store, sweep: str) -> Cancelled:
    """Signal every process of a sweep to stop. Raises StoreError for an unknown sweep.

    Finished runs stay; the others go on from their last finished block when the sweep is started again.
    """
    record = store.read_sweep(sweep)
    found = Cancelled()
    signalled: set[int] = set()
    for driver in drivers(store, sweep):  # first, so that nothing is started again
        if driver.host == host_id():
            _signal(driver.pid, signal.SIGTERM, signalled)
            found.ended.append(f"the driver, process {driver.pid}, was told to stop")
        else:
            found.elsewhere.append(f"a driver runs on {driver.host}, process {driver.pid}: cancel it there")
    jobs = [(name, LAUNCHERS[name].cancel(store, sweep)) for name in LAUNCHERS]
    for name, ended in jobs:
        if ended:
            several = "s" if len(ended) > 1 else ""
            found.ended.append(f"cancelled {len(ended)} {name.upper()} job{several}: {', '.join(ended)}")
    for signature in record.signatures:
        holder = claim.holder(store.run(signature))
        if holder is None:
            continue
        if holder.host == host_id():
            _signal(holder.pid, signal.SIGINT, signalled)
            found.ended.append(f"{signature} process {holder.pid} was told to stop")
        elif not any(ended for _, ended in jobs):
            found.elsewhere.append(f"{signature} runs on {holder.host}, process {holder.pid}: cancel it there")
    return found


def cancel_run(store: Store, signature: str) -> Cancelled:
    """Signal the process that executes one run. A process that drives a whole sweep stops with it, which is said.

    A SLURM job that has this run alone to do is cancelled; of another one the other runs would be lost.
    """
    found = Cancelled()
    records, _ = store.read_sweeps()
    driven = {owner.pid: record.name for record in records for owner in drivers(store, record.name)}
    holder = claim.holder(store.run(signature))
    jobs = [(name, LAUNCHERS[name].cancel_run(store, signature)) for name in LAUNCHERS]
    for name, ended in jobs:
        found.ended += [f"cancelled {name.upper()} job {job}" for job in ended]
    if holder is not None and holder.host == host_id():
        _signal(holder.pid, signal.SIGINT, set())
        sweep = driven.get(holder.pid)
        also = f", which executes sweep {sweep} run by run," if sweep else ""
        found.ended.append(f"{signature} process {holder.pid}{also} was told to stop")
    elif holder is not None and not any(ended for _, ended in jobs):
        found.elsewhere.append(f"{signature} runs on {holder.host}, process {holder.pid}: cancel it there")
    return found


def _signal(pid: int, number: int, signalled: set[int]) -> None:
    if pid not in signalled:
        signalled.add(pid)
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, number)
