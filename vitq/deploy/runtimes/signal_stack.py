"""The alternate signal stack of this thread: a library that replaces it must not take it along when it goes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SS_DISABLE = 2  # <signal.h>


class _Stack(ctypes.Structure):
    """stack_t of Linux."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept() -> Iterator[None]:
    """This thread's alternate signal stack is afterwards what it was before.

    OpenVINO's CPU plugin sets one of its own where the CPU has AMX, and unmaps it in whichever thread drops the plugin:
    the next signal (Ctrl-C, SIGTERM) then ends the process with SIGSEGV, because Python's handlers use that stack.
    """
    if sys.platform != "linux":
        yield
        return
    sigaltstack = ctypes.CDLL(None, use_errno=True).sigaltstack
    before = _Stack()
    sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        if sigaltstack(ctypes.byref(before), None):  # too small for AMX's registers: none is better than a wrong one
            sigaltstack(ctypes.byref(_Stack(None, _SS_DISABLE, 0)), None)
