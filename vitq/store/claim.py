"""Who executes a run: a claim that one process holds, that outlives nobody, and that needs no lock server.

A claim is a file that is linked into the run's folder: link(2) fails where one exists, on NFS too. No SQLite and no
fcntl, which shared file systems do not keep reliably. A dead owner is told by its process on the same machine, and by
a heartbeat that stands still on another one, by the clock of whoever looks: clocks need not agree. Claims are not
fsynced: what a lost machine had claimed, nobody has any more.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from pydantic import ValidationError

from vitq.errors import StoreError
from vitq.signals import not_in_threads
from vitq.store import process
from vitq.store.atomic import host_id, make_dir, remove_abandoned, temporary_file, write_file
from vitq.store.files import read_bytes
from vitq.store.records import Record
from vitq.store.rundir import RunDir

# Seconds between two signs of life, and how long one of another machine may stand still before it counts as dead.
BEAT = 5.0
SILENCE = 60.0


class Owner(Record):
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
        mine = me()
        if _link(run_dir.claim_path, mine):
            return cls(run_dir, mine)
        holder = read(run_dir)
        if holder is None:  # released this moment, or unreadable
            return cls(run_dir, mine) if _link(run_dir.claim_path, mine) else None
        if not is_dead(holder, run_dir.claim_path):
            return None
        return cls(run_dir, mine) if _succeed(run_dir, holder, mine) else None

    @classmethod
    def take_over(cls, run_dir: RunDir) -> Claim | None:
        """As `take`, but an owner on another machine is watched until it is dead; None once it gives a sign of life.

        Takes up to SILENCE seconds and some. Raises StoreError when the disk refuses.
        """
        beat, deadline = _last_beat(run_dir), time.monotonic() + SILENCE + 2 * BEAT
        while (claim := cls.take(run_dir)) is None:
            holder = read(run_dir)
            here = holder is not None and holder.host == host_id()
            if here or _last_beat(run_dir) != beat or time.monotonic() > deadline:
                return None
            time.sleep(BEAT / 5)
        return claim

    def release(self) -> None:
        """Give the run back. What is not ours is left alone."""
        self._stop.set()
        self._beating.join()
        holder = read(self._run_dir)
        if holder is not None and holder.token == self.owner.token:
            for path in self._run_dir.path.glob("claim.*.successor"):
                path.unlink(missing_ok=True)
            self._run_dir.claim_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                os.utime(self._run_dir.claim_path)
            except OSError:
                continue  # a full or absent disk: the next beat tries again


def bury(run_dir: RunDir) -> None:
    """Remove what dead processes left: claims, by succeeding them, resume state where they had finished, half files.

    An owner that is alive keeps all of it. Raises StoreError when the disk refuses.
    """
    try:
        # Claims and temporary files, in one look: a finished run mostly has none, and a sweep asks for each of them.
        # A temporary file may lie there without a claim: of one that died while it took the run.
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


def give_back(run_dir: RunDir) -> None:
    """Remove a claim that this process still has, because a signal came between taking it and using it."""
    holder, mine = read(run_dir), me()
    if holder is not None and (holder.host, holder.boot, holder.pid) == (mine.host, mine.boot, mine.pid):
        run_dir.claim_path.unlink(missing_ok=True)


def read(run_dir: RunDir) -> Owner | None:
    """Who holds a run; None where nobody does."""
    return _owner(run_dir.claim_path)


def _last_beat(run_dir: RunDir) -> int | None:
    try:
        return run_dir.claim_path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


class Watch:
    """Tells whether a file has stood still for SILENCE seconds of this process's own clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, int, float]] = {}

    def still(self, path: Path, token: str) -> bool:
        """Ask again and again; the first answer is False."""
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
    """Whether an owner is gone: known at once on this machine, by silence elsewhere."""
    here = me()
    if owner.host != here.host:
        return _watch.still(path, owner.token)
    if owner.boot != here.boot:
        return True
    return not process.is_alive(owner.pid, owner.started)


def _succeed(run_dir: RunDir, dead: Owner, mine: Owner) -> bool:
    """Of all who find `dead` dead, the one that links its successor's file first takes over.

    A successor that died before it could is succeeded in turn.
    """
    line = {dead.token}
    while not _link(path := run_dir.path / f"claim.{dead.token}.successor", mine):
        other = _owner(path)
        if other is None or not is_dead(other, path):
            return False
        dead = other
        line.add(dead.token)
    holder = read(run_dir)
    if holder is None or holder.token not in line:
        # Since we looked, somebody else has succeeded, worked and given the run back; it may be taken anew by now.
        path.unlink(missing_ok=True)
        return False
    try:
        with temporary_file(run_dir.claim_path) as temporary:
            write_file(temporary, mine.to_json().encode(), durable=False)
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
                # NFS repeats a request whose answer was lost, and may be told then that our own link exists.
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
        # Written whole before it was linked, so a damaged one is a damaged disk: nobody is known to hold the run.
        return Owner(host="", boot="", pid=0, started=0.0, token=path.name)


def me() -> Owner:
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
