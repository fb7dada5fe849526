"""Records of what was handed to a scheduler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from vitq.store.atomic import host_id
from vitq.store.submissions import Submission, Submissions, Tries


def test_what_dead_writers_left_in_any_folder_goes(tmp_path: Path) -> None:
    submissions = Submissions(tmp_path)
    submissions.tidy()  # nothing was submitted yet
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    record = Submission(token="a" * 12, allocations=[["s"]], command=["x"], max_retries=1, max_timeouts=1)
    submissions.write(record)
    submissions.write_tries(record.token, 0, Tries(timeouts=1))
    left = submissions.folder(record.token) / f".0.json.{host_id()}.{dead.pid}.0.tmp"
    never = submissions.folder("b" * 12) / f".submission.json.{host_id()}.{dead.pid}.0.tmp"
    living = submissions.folder(record.token) / f".0.json.{host_id()}.{os.getppid()}.0.tmp"
    never.parent.mkdir()
    for path in (left, never, living):
        path.write_text("half a rec")
    (submissions.path / "a file").touch()
    submissions.tidy()
    assert [path.exists() for path in (left, never, living)] == [False, False, True]
    assert submissions.read(record.token) == record
    assert submissions.read_tries(record.token, 0).timeouts == 1
