"""Processes told apart by id and beginning; the dead, zombies among them, are dead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitq.store import process
from vitq.store.atomic import abandoned, host_id

WAITS = "import sys; print('here', flush=True); sys.stdin.readline()"


def child(code: str = WAITS) -> subprocess.Popen[str]:
    found = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert found.stdout is not None
    found.stdout.readline()
    return found


def test_a_process_keeps_its_beginning_and_no_other_has_it() -> None:
    with child() as one:
        began = process.started(one.pid)
        assert began is not None
        assert process.started(one.pid) == began
        assert process.is_alive(one.pid)
        assert process.is_alive(one.pid, began)
        assert not process.is_alive(one.pid, began - 1)
        mine = process.started(os.getpid())
        assert mine is not None
        assert mine < began
        one.kill()
    assert process.started(one.pid) is None
    assert not process.is_alive(one.pid, began)


def test_a_name_cannot_hide_a_process() -> None:
    """/proc/PID/stat holds the name in brackets, whatever is in it."""
    name = "a) Z 1 (b"
    code = f"from pathlib import Path; Path('/proc/self/comm').write_text({name!r}); {WAITS}"
    with child(code) as one:
        assert Path(f"/proc/{one.pid}/comm").read_text(encoding="utf-8") == f"{name}\n"
        assert process.is_alive(one.pid, process.started(one.pid))
        one.kill()


def test_a_zombie_is_dead_and_its_half_file_is_abandoned(tmp_path: Path) -> None:
    with child() as one:
        half = tmp_path / f".result.json.{host_id()}.{one.pid}.0.tmp"
        half.write_text("{")
        assert list(abandoned(tmp_path)) == []
        one.kill()
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has looked
        assert process.started(one.pid) is None
        assert list(abandoned(tmp_path)) == [half]


def test_ids_that_nobody_can_have_are_dead() -> None:
    for pid in (2**22 + 1, 2**62, 2**80):
        assert not process.is_alive(pid)


def test_a_hidden_process_counts_as_living(monkeypatch: pytest.MonkeyPatch) -> None:
    with child() as one:

        def hidden(path: Path) -> bytes:
            raise FileNotFoundError(2, "No such file or directory", str(path))

        monkeypatch.setattr(Path, "read_bytes", hidden)
        monkeypatch.setattr("psutil.PROCFS_PATH", "/proc/nowhere")
        assert process.is_alive(one.pid)
        assert process.is_alive(one.pid, 5.0)
        one.kill()
