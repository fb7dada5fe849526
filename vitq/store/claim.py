"""Which process executes a run: at most one holds its claim, without a lock server, and a dead owner is detected.

A claim is a file that is linked into the run's folder: link(2) fails where one exists, on NFS too. No SQLite and no
fcntl, which shared file systems do not keep reliably. An owner on the same machine is dead when its process is; an
owner on another machine is dead when its heartbeat (the file's modification time) has not changed for SILENCE seconds
of this process's clock, so that the machines' clocks need not agree. Claims are not fsynced: after a power failure the
owner is dead anyway.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Self

import psutil
from pydantic import ValidationError

from vitq.errors import StoreError
from vitq.signals import not_in_threads
from vitq.store import process
from vitq.store.atomic import host_id, make_dir, remove_abandoned, temporary_file, write_file
from vitq.store.files import read_bytes
from vitq.store.record import StoredRecord
from vitq.store.rundir import RunDir

# Seconds between two signs of life, and how long one of another machine may stand still before it counts as dead.
BEAT = 5.0
SILENCE = 60.0


class Owner(StoredRecord):
    """A process. host: machine and process-id namespace; boot: of the machine; started: see `process.started`."""

    host: str
    boot: str
    pid: int
    started: float
    token: str


class Claim:
    """Held from `take` to `release`; use as a context manager. Beats in a thread of its own."""

    def __init__(self, run_dir: RunDir, owner: Owner):
        self._run_dir, self.owner = run_dir, owner
        self._stop = threading.Event()
        self._beating = threading.Thread(target=self._beat, name=f"claim {run_dir.signature}", daemon=True)
        with not_in_threads():
            self._beating.start()

    @classmethod
    def take(cls, run_dir: RunDir) -> Claim | None:
        """Claim a run; None where a living process has it. A dead owner's claim passes to exactly one successor.

        On another machine an owner counts as dead after SILENCE seconds of watching (`Watch`), so this returns None
        at first. Raises StoreError when the disk refuses.
        """
        me = this_process()
        if _link(run_dir.claim_path, me):
            return cls(run_dir, me)
        owner = read(run_dir)
        if owner is None:  # released this moment, or unreadable
            return cls(run_dir, me) if _link(run_dir.claim_path, me) else None
        if not is_dead(owner, run_dir.claim_path):
            return None
        return cls(run_dir, me) if _succeed(run_dir, owner, me) else None

    @classmethod
    def take_over(cls, run_dir: RunDir) -> Claim | None:
        """As `take`, but an owner on another machine is watched until it is dead; None once it gives a sign of life.

        Takes up to SILENCE seconds and some. Raises StoreError when the disk refuses.
        """
        beat, deadline = _last_beat(run_dir), time.monotonic() + SILENCE + 2 * BEAT
        while (claim := cls.take(run_dir)) is None:
            owner = read(run_dir)
            is_here = owner is not None and owner.host == host_id()
            if is_here or _last_beat(run_dir) != beat or time.monotonic() > deadline:
                return None
            time.sleep(BEAT / 5)
        return claim

    def release(self) -> None:
        """Remove the claim. One that another process has taken over meanwhile is left alone."""
        self._stop.set()
        self._beating.join()
        owner = read(self._run_dir)
        if owner is not None and owner.token == self.owner.token:
            for path in self._run_dir.path.glob("claim.*.successor"):
                path.unlink(missing_ok=True)
            self._run_dir.claim_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                os.utime(self._run_dir.claim_path)
            except OSError:
                continue  # a full or absent disk: the next beat tries again


def remove_leftovers(run_dir: RunDir) -> None:
    """Remove what dead processes left: claims, temporary files, and resume state where the run is finished.

    Nothing is removed while a living process holds the run. Raises StoreError when the disk refuses.
    """
    try:
        # Listed once: a finished run mostly has neither claims nor temporary files, and a sweep asks for every run.
        # A process that died while it claimed the run leaves a temporary file without a claim.
        names = [name for name in os.listdir(run_dir.path) if name.startswith(("claim", "."))]
        claimed = any(name.startswith("claim") for name in names)
        if claimed and (claim := Claim.take(run_dir)) is not None:
            with claim:
                if run_dir.is_done():
                    run_dir.clear_state()
        if names:
            remove_abandoned(run_dir.path)
    except FileNotFoundError:
        return  # the whole folder is gone, and with it what was left there
    except OSError as error:
        raise _refused(run_dir.claim_path, error) from error


def release_own(run_dir: RunDir) -> None:
    """Remove a claim that this process still has, because a signal came between taking it and using it."""
    owner, me = read(run_dir), this_process()
    if owner is not None and (owner.host, owner.boot, owner.pid) == (me.host, me.boot, me.pid):
        run_dir.claim_path.unlink(missing_ok=True)


def read(run_dir: RunDir) -> Owner | None:
    """Who claimed a run, dead or alive; None where no process did."""
    return _owner(run_dir.claim_path)


def holder(run_dir: RunDir) -> Owner | None:
    """The living process that holds a run, None where there is none: the one test of whether a run is executed.

    A claim of another machine counts as held until this process has watched it for SILENCE seconds.
    """
    owner = read(run_dir)
    return None if owner is None or is_dead(owner, run_dir.claim_path) else owner


def is_held(run_dir: RunDir) -> bool:
    """Whether a living process holds a run, see `holder`."""
    return holder(run_dir) is not None


def is_fresh(run_dir: RunDir) -> bool:
    """Whether a claim's last heartbeat is younger than SILENCE seconds, as far as the clocks of the machines agree."""
    beat = _last_beat(run_dir)
    return beat is not None and time.time() - beat / 1e9 < SILENCE


def _last_beat(run_dir: RunDir) -> int | None:
    try:
        return run_dir.claim_path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


class Watch:
    """Detects files whose modification time has not changed for SILENCE seconds of this process's own clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, int, float]] = {}

    def is_still(self, path: Path, token: str) -> bool:
        """To be asked repeatedly; the first answer is False. token: of the claim, which may be another one by now."""
        try:
            beat = path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        known = self._seen.get(str(path))
        if known is None or known[:2] != (token, beat):
            self._seen[str(path)] = (token, beat, time.monotonic())
            return False
        return time.monotonic() - known[2] > SILENCE


_watch = Watch()


def is_dead(owner: Owner, path: Path) -> bool:
    """Whether an owner is dead: known at once on this machine, by its missing heartbeat on another."""
    me = this_process()
    if owner.host != me.host:
        return _watch.is_still(path, owner.token)
    if owner.boot != me.boot:
        return True
    return not process.is_alive(owner.pid, owner.started)


def _succeed(run_dir: RunDir, dead: Owner, me: Owner) -> bool:
    """Take over from a dead owner; False where another process was faster.

    Of all processes that want to, the one that links the successor's file first may; a successor that died before it
    took over is succeeded in the same way.
    """
    line = {dead.token}
    while not _link(path := run_dir.path / f"claim.{dead.token}.successor", me):
        other = _owner(path)
        if other is None or not is_dead(other, path):
            return False
        dead = other
        line.add(dead.token)
    owner = read(run_dir)
    if owner is None or owner.token not in line:
        # Meanwhile another process has succeeded, worked and released the run; a third one may have claimed it.
        path.unlink(missing_ok=True)
        return False
    try:
        with temporary_file(run_dir.claim_path) as temporary:
            write_file(temporary, me.to_json().encode(), durable=False)
            os.replace(temporary, run_dir.claim_path)
    except OSError as error:
        raise _refused(path, error) from error
    return True


def _link(path: Path, owner: Owner) -> bool:
    try:
        make_dir(path.parent)
        with temporary_file(path) as temporary:
            write_file(temporary, owner.to_json().encode(), durable=False)
            try:
                os.link(temporary, path)
            except FileExistsError:
                # NFS repeats a request whose answer was lost, and may answer then that our own link exists.
                return os.stat(temporary).st_nlink > 1
            finally:
                os.unlink(temporary)
    except OSError as error:
        raise _refused(path, error) from error
    return True


def _refused(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot claim {path.parent}: {error.strerror or error}; free space or permissions there, or choose another "
        "folder with runs_dir=DIR; its disk must support links"
    )


def _owner(path: Path) -> Owner | None:
    data = read_bytes(path)
    if data is None:
        return None
    try:
        return Owner.model_validate(json.loads(data))
    except (ValueError, ValidationError):
        # Written whole before it was linked, so a damaged one is a damaged disk: its owner is unknown.
        return Owner(host="", boot="", pid=0, started=0.0, token=path.name)


def this_process() -> Owner:
    """This process, under a token of its own."""
    pid = os.getpid()
    began = process.started(pid)
    assert began is not None, "this process lives"
    return Owner(host=host_id(), boot=_boot(), pid=pid, started=began, token=uuid.uuid4().hex)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return str(int(psutil.boot_time()))  # not Linux
