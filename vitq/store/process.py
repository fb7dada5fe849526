"""Whether a process of this machine is still the one that left something behind.

A process id alone is used again; with the time at which it began, counted from the boot, it is not. Times by the wall
clock (`psutil.Process.create_time`, even between two calls) move when the clock is set, NTP included, and every
living owner would look like another process.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

# States of /proc/PID/stat in which a process has ended and waits for its parent to read how.
_OVER = frozenset("ZXx")


def started(pid: int) -> float | None:
    """When a living process began, in clock ticks after the boot (Linux) or in seconds; None where it is dead.

    A zombie is dead. Raises PermissionError where the system hides it.
    """
    try:
        # The name in brackets may hold anything, brackets and blanks too: what counts follows the last one.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return _elsewhere(pid)  # gone, hidden (hidepid), or no Linux
    return None if fields[0].decode() in _OVER else float(fields[19])


def is_alive(pid: int, began: float | None = None) -> bool:
    """Whether a process lives; began: whether it is the one that `started` then. One that is hidden lives."""
    try:
        now = started(pid)
    except PermissionError:
        return True
    return now is not None and began in (None, now)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # it belongs to another user
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _elsewhere(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        if _exists(pid):
            raise PermissionError(f"process {pid} is hidden") from None
        return None
    except psutil.AccessDenied as error:
        raise PermissionError(f"process {pid} is hidden") from error
