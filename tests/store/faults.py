"""Kills a writer before every system call of a write, and says what a reader finds. Run by tests/store/test_atomic.py.

    python store_faults.py ROOT      prints one JSON list of {op, when, found, leftovers}

Each attempt is a forked child whose `os` functions count down and then end the process at once, like SIGKILL; a write
dies in its middle, with half of its bytes on disk.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from vitq.store import RunDir, Store, SweepRecord
from vitq.store.claim import Claim
from vitq.store.status import Status

CALLS = ("mkdir", "open", "write", "fsync", "close", "replace", "link", "unlink")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(countdown: int) -> None:
    """After `countdown` further system calls of the listed ones, the process is killed."""
    left = [countdown]
    for name in CALLS:
        real = getattr(os, name)

        def shim(*args: Any, _real: Any = real, _name: str = name, **kwargs: Any) -> Any:
            if left[0] == 0:
                if _name == "write":
                    _real(args[0], bytes(args[1])[: len(args[1]) // 2])
                die()
            left[0] -= 1
            return _real(*args, **kwargs)

        setattr(os, name, shim)


def write(root: Path, op: str, version: str) -> None:
    store = Store(root)
    if op == "config":
        store.run("0123456789abcdef").write_config({"version": version, "pad": "x" * 5000})
    else:
        store.write_sweep(SweepRecord(name="demo", signatures=["a"], description=version, command="x" * 5000))


def read(root: Path, op: str) -> str | None:
    store = Store(root)
    if op == "config":
        run = store.run("0123456789abcdef")
        return str(run.read_config()["version"]) if run.config_path.exists() else None
    return store.read_sweep("demo").description if "demo" in store.sweeps() else None


def attempt(root: Path, op: str, version: str, countdown: int) -> int:
    """Status of a child that writes `version` and is killed after `countdown` calls."""
    child = os.fork()
    if child == 0:
        arm(countdown)
        write(root, op, version)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def hold(run: RunDir, countdown: int | None) -> int:
    """Status of a child that takes the claim of a run and gives it back, killed after `countdown` calls."""
    child = os.fork()
    if child == 0:
        if countdown is not None:
            arm(countdown)
        held = Claim.take(run)
        if held is not None and countdown is not None:
            held.release()
        os._exit(0 if held is not None else 9)
    return os.waitpid(child, 0)[1]


def claims(base: Path) -> list[dict[str, Any]]:
    """Who dies anywhere between taking a claim and giving it back is succeeded, and leaves nothing behind."""
    rows: list[dict[str, Any]] = []
    for first in (True, False):  # a run that nobody has had, and one whose owner is dead
        for countdown in range(200):
            run = Store(base / f"claim-{first}-{countdown}").run("0123456789abcdef")
            run.write_config({})
            if not first:
                hold(run, None)
            status = hold(run, countdown)
            after = Claim.take(run)
            run.write_status(Status(state="planned"))
            if after is not None:
                after.release()
            left = sorted(set(os.listdir(run.path)) - {"config.yaml", "status.json"})
            rows.append({"op": "claim", "first": first, "countdown": countdown, "killed": status == signal.SIGKILL})
            rows[-1] |= {"status": status, "taken": after is not None, "leftovers": left}
            if status == 0:
                break
    return rows


def main(base: Path) -> None:
    rows = claims(base)
    for op in ("config", "sweep"):
        for first in (True, False):  # into nothing, and over an older record
            for countdown in range(200):
                root = base / f"{op}-{first}-{countdown}"
                if not first:
                    write(root, op, "old")
                status = attempt(root, op, "new", countdown)
                found = read(root, op)
                history = [json.loads(p.read_text())["description"] for p in (root / "sweeps/history").glob("*.json")]
                write(root, op, "after")
                left = [str(p.name) for p in root.rglob("*.tmp")]
                rows.append({"op": op, "first": first, "countdown": countdown, "killed": status == signal.SIGKILL})
                rows[-1] |= {"found": found, "history": history, "after": read(root, op), "leftovers": left}
                shutil.rmtree(root)
                if status == 0:
                    break
    print(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
