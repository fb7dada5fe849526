"""Processes of this machine, as what they run, hold and were started with tells them apart."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil


def others() -> Iterator[psutil.Process]:
    """Living processes other than this one."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def name_of(process: psutil.Process) -> str:
    """Of its program; nothing where it has ended meanwhile."""
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return dict(process.environ())
    except psutil.Error:
        return {}


def opened(process: psutil.Process) -> list[str]:
    """What a process has open; a file that was removed meanwhile is named as it was."""
    folder, found = Path(f"/proc/{process.pid}/fd"), []
    with suppress(OSError):
        for entry in folder.iterdir():
            with suppress(OSError):
                found.append(os.readlink(entry).removesuffix(" (deleted)"))
    return found
