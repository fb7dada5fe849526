"""Signals to stop become an exception, so that records are written and claims released."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# SLURM sends SIGTERM before it kills, and a signal of the user's choice before the time limit.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

# Seconds until an Interrupted that Python had to ignore is raised again.
_AGAIN = 0.05


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to stop. As with KeyboardInterrupt, nothing takes it for a failure of the run."""

    def __init__(self, number: int):
        self.number = number
        super().__init__(f"told to stop by {signal.Signals(number).name}")


_previous: dict[int, Any] = {}  # signal → the handler that was there before
_acknowledged = threading.Event()


def acknowledge() -> None:
    """Called by whoever catches an Interrupted: it is not raised again, so that cleaning up is not interrupted."""
    _acknowledged.set()


@contextmanager
def not_in_threads() -> Iterator[None]:
    """Threads started inside never take a signal to stop: one that they take does not wake the main thread's sleep."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def interruptible(insist: float | None = None) -> Iterator[None]:
    """Raise Interrupted in the main thread when one of STOPPING arrives, once: what cleans up is not disturbed again.

    Where Python cannot raise it (in a callback of the import system, in a destructor) it is raised again afterwards.
    insist: raise it again every so many seconds until `acknowledge` is called, in case a bare `except:` swallows it.
    Forked children get the default back: they are ended by SIGTERM as anybody expects. Started programs never inherit
    handlers. Elsewhere than in the main thread, where Python allows no handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    raised = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal raised
        if raised or _acknowledged.is_set():
            return
        raised = True
        if insist is not None:
            later(insist, number)
        raise Interrupted(number)

    def later(seconds: float, number: int) -> None:
        again = threading.Timer(seconds, resend, (number,))
        again.daemon = True
        with not_in_threads():
            again.start()

    def resend(number: int) -> None:
        nonlocal raised
        if not _acknowledged.is_set():
            raised = False
            os.kill(os.getpid(), number)

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        if not isinstance(args.exc_value, Interrupted):
            hook(args)
            return
        # Later: raised here, it would be swallowed again.
        later(_AGAIN, args.exc_value.number)

    hook = sys.unraisablehook
    sys.unraisablehook = unraisable
    _acknowledged.clear()
    for number in STOPPING:
        _previous[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        _acknowledged.set()
        sys.unraisablehook = hook
        for number in STOPPING:
            signal.signal(number, _previous.pop(number))


def _forget() -> None:
    while _previous:
        number, _ = _previous.popitem()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)
