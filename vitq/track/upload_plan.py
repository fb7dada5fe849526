"""What is missing at W&B: for each run, whether its mirror can be uploaded, has to be rebuilt first, or is there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitq.errors import StoreError
from vitq.store import RunDir, mirror_record
from vitq.track import probes

State = Literal["upload", "rebuild", "uploaded", "unfinished", "unreadable"]


@dataclass(frozen=True)
class Destination:
    """Where to: a project or entity other than the runs' own, None for theirs."""

    entity: str | None = None
    project: str | None = None

    def holds(self, upload: mirror_record.Upload) -> bool:
        return self.entity in (None, upload.entity) and self.project in (None, upload.project)


@dataclass(frozen=True)
class UploadItem:
    """One run: its state, and the folder to upload where there is one. why: one line for `unreadable`."""

    run_dir: RunDir
    state: State
    folder: Path | None = None
    generation: int = 1
    why: str = ""


def look(run_dirs: Iterable[RunDir], destination: Destination, jobs: int) -> list[UploadItem]:
    """The states of runs, several looked at at once. Writes nothing."""
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda run_dir: _item(run_dir, destination), run_dirs))


def _item(run_dir: RunDir, destination: Destination) -> UploadItem:
    try:
        status, done = run_dir.status_hint(), run_dir.is_done()
    except StoreError as error:
        return UploadItem(run_dir, "unreadable", why=str(error))
    if not done and (status is None or status.state != "failed"):
        return UploadItem(run_dir, "unfinished")
    try:
        known = mirror_record.read(run_dir)
    except StoreError:
        known = None  # a hint: without it the mirror is made again
    if known is None:
        return UploadItem(run_dir, "rebuild")
    exit_code, folder = 0 if done else 1, Path(known.sync_dir)
    uploaded = known.uploaded and known.uploaded.sync_dir == known.sync_dir and destination.holds(known.uploaded)
    online = known.mode == "online" and known.exit_code == exit_code and destination == Destination()
    state: State = "rebuild"
    if done and known.probes is not None and known.probes != probes.made(run_dir):
        pass  # `vitq probe` has added to it since
    elif uploaded or online:
        state = "uploaded"
    elif known.mode == "offline" and ended_with(folder, exit_code):
        state = "upload"
    return UploadItem(run_dir, state, folder, known.generation)


def ended_with(folder: Path, exit_code: int) -> bool:
    """Whether W&B's own reader finds the run complete, with this exit code.

    Its file may be gone or cut off: a killed process leaves the head of it, and a killed service says nothing.
    """
    if not any(folder.glob("*.wandb")):
        return False
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(folder)]
    seen = subprocess.run(command, capture_output=True, text=True, check=False)
    if seen.returncode:
        return False
    try:
        summary = json.loads(seen.stdout)
    except ValueError:
        return False
    return isinstance(summary, dict) and summary.get("exit_code") == exit_code
