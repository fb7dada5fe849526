"""Writes of the store: killed, concurrent, refused by the disk."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.errors import refuses
from vitq.errors import StoreError
from vitq.store import RunDir, Store, atomic
from vitq.store.status import Status

SIG = "0123456789abcdef"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return Store(tmp_path / "runs").run(SIG)


def leftovers(path: Path) -> list[str]:
    return [p.name for p in path.rglob(".*")]


# --- torn writes


def test_a_killed_write_leaves_the_old_record_or_the_new_one(tmp_path: Path) -> None:
    script = Path(__file__).with_name("faults.py")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "runs")],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    for first in (True, False):
        mine = [row for row in rows if row["op"] == "claim" and row["first"] == first]
        # open, write, close, link, unlink to take it, and the unlink that gives it back, at least
        assert sum(row["killed"] for row in mine) >= 6
        assert mine[-1]["status"] == 0
        assert all((row["taken"], row["leftovers"]) == (True, []) for row in mine), mine
    for op in ("config", "sweep"):
        for first in (True, False):
            old = None if first else "old"
            mine = [row for row in rows if row["op"] == op and row["first"] == first]
            # open, write, fsync, close, replace, open, fsync, close: at least these were died in
            assert sum(row["killed"] for row in mine) >= 8
            assert not mine[-1]["killed"]
            assert mine[-1]["found"] == "new"
            found = [row["found"] for row in mine]
            assert set(found) == {old, "new"}
            assert found == sorted(found, key=lambda value: value == "new"), "old until the rename, new ever after"
            for row in mine:
                assert (row["after"], row["leftovers"]) == ("after", []), row
                if op == "sweep" and not first and row["found"] == "new":
                    assert row["history"] == ["old"]


def test_the_disk_has_the_bytes_before_the_name_and_the_name_before_the_return(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost machine cannot be simulated by killing a process; the order of the calls is what protects from it."""
    run.write_config({})
    calls: list[tuple[str, str]] = []
    names: dict[int, str] = {}
    real_open, real_fsync, real_replace = os.open, os.fsync, os.replace

    def opening(path: Any, *args: Any) -> int:
        descriptor = real_open(path, *args)
        names[descriptor] = Path(path).suffix or "directory"
        return descriptor

    def syncing(descriptor: int) -> None:
        calls.append(("fsync", names[descriptor]))
        real_fsync(descriptor)

    def replacing(source: Path, target: Path) -> None:
        calls.append(("replace", target.name))
        assert source.parent == target.parent, "another directory may be another disk, where a rename is a copy"
        real_replace(source, target)

    monkeypatch.setattr(atomic.os, "open", opening)
    monkeypatch.setattr(atomic.os, "fsync", syncing)
    monkeypatch.setattr(atomic.os, "replace", replacing)
    run.write_config({"new": 1})
    assert calls == [("fsync", ".tmp"), ("replace", "config.yaml"), ("fsync", "directory")]


def test_concurrent_writers(run: RunDir) -> None:
    """Readers never see half a record while four threads write, and no temporary file stays."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def writer(number: int) -> None:
        try:
            for _ in range(25):
                run.write_config({"writer": number, "pad": [number] * 2000})
        except Exception as error:  # noqa: BLE001  (threads hand it to the test)
            failures.append(error)

    def reader() -> None:
        try:
            while not stop.is_set():
                if run.config_path.exists():
                    config = run.read_config()
                    assert config["pad"] == [config["writer"]] * 2000
        except Exception as error:  # noqa: BLE001  (threads hand it to the test)
            failures.append(error)

    watching = threading.Thread(target=reader)
    watching.start()
    threads = [threading.Thread(target=writer, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    watching.join()
    assert failures == []
    assert leftovers(run.path) == []


def test_temporaries_of_the_dead_go_and_those_of_the_living_stay(run: RunDir) -> None:
    run.path.mkdir(parents=True)
    host = atomic.host_id()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        "dead": f".result.json.{host}.{dead.pid}.0.tmp",
        "my id, not mine": f".result.json.{host}.{os.getpid()}.999999.tmp",
        "living": f".result.json.{host}.{os.getppid()}.0.tmp",
        "elsewhere": ".result.json.other-1.1.0.tmp",
        "elsewhere, long ago": ".result.json.other-1.2.0.tmp",
        "not ours": ".nfs0001.tmp",
        "no process id": f".result.json.{host}.{10**30}.0.tmp",
    }
    for name in names.values():
        (run.path / name).write_text("half")
    past = time.time() - atomic.ABANDONED_AFTER - 60
    os.utime(run.path / names["elsewhere, long ago"], (past, past))
    run.write_status(Status(state="planned"))
    left = {label for label, name in names.items() if (run.path / name).exists()}
    assert left == {"living", "elsewhere", "not ours"}


# --- disks that refuse


@pytest.mark.parametrize("call", ["open", "write", "fsync", "close", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_refused_call_is_a_store_error_and_keeps_the_old(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    run.write_config({"version": "old"})

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, call, refuse)
        with refuses(StoreError, value=run.config_path) as caught:
            run.write_config({"version": "new"})
    assert getattr(caught.value.__cause__, "errno", None) == code
    assert os.strerror(code) in str(caught.value)
    assert run.read_config() == {"version": "old"}
    assert leftovers(run.path) == []


def test_a_full_disk_for_real(run: RunDir) -> None:
    """The kernel itself refuses the second half of the file."""
    run.write_config({"version": "old"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with refuses(StoreError, value=run.config_path) as raised:
            run.write_config({"pad": "x" * 100_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert getattr(raised.value.__cause__, "errno", None) == errno.EFBIG
    assert run.read_config() == {"version": "old"}
    assert leftovers(run.path) == []


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    run = Store(tmp_path / "runs").run(SIG)
    with refuses(StoreError, value=run.config_path):
        run.write_config({})
    with refuses(StoreError, key="runs_dir", value=tmp_path / "runs"):
        Store(tmp_path / "runs").signatures()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that nobody can write to")
def test_a_place_where_nobody_may_write() -> None:
    run = Store("/proc/vitq").run(SIG)
    with refuses(StoreError, value=run.config_path):
        run.write_config({})
