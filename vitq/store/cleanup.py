"""What a store does not need: runs of no sweep, state of finished runs, leftovers of dead processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vitq.store import Run, Store, claim
from vitq.store.atomic import abandoned
from vitq.store.files import remove


@dataclass(frozen=True)
class Garbage:
    """One path that may go, why, and its size in bytes. run: signature of the run that would be lost with its result,
    '' where nothing is lost."""

    path: Path
    reason: str
    size: int
    run: str = ""

    def remove(self) -> None:
        """Remove it. Raises StoreError when the disk refuses."""
        remove(self.path)


def garbage(store: Store, orphans: bool = False) -> Iterator[Garbage]:
    """What may go. A run that a process holds is never touched.

    Always: temporary files whose writer is dead, the resume state of finished runs and of their probes, scripts and
    logs of SLURM jobs whose runs all have their results. orphans: runs that no sweep lists too, finished ones included
    (a run started with `vitq run` is in no sweep). Raises StoreError when a sweep's record cannot be read then: what it
    lists is not known.
    """
    records, broken = store.read_sweeps()
    if orphans and broken:
        raise next(iter(broken.values()))
    listed = {signature for record in records for signature in record.signatures}
    listed |= store.earlier_signatures() if orphans else set()
    for signature in store.signatures():
        run = store.run(signature)
        if claim.is_held(run):
            continue
        state = Run(run).state
        if orphans and signature not in listed:
            result = run.signature if run.result_path.exists() else ""
            yield Garbage(run.path, f"in no sweep ({state})", _size(run.path), result)
            continue
        for folder, owner in ((run.state_dir, "a finished run"), (run.probe_state_dir, "stopped probes")):
            if state == "done" and folder.exists():
                yield Garbage(folder, f"resume state of {owner}", _size(folder))
        yield from _leftovers(run.path)
        for path in sorted(run.path.glob("claim*")):
            yield Garbage(path, "claim of a dead process", _size(path))
    for submission in store.submissions.all():
        runs = (store.run(name) for names in submission.allocations for name in names)
        if all(run.is_done() and not run.claim_path.exists() for run in runs):
            folder = store.submissions.folder(submission.token)
            yield Garbage(folder, "script and logs of SLURM jobs whose runs are finished", _size(folder))
    if store.root.is_dir():
        yield from (_temporary(path) for path in abandoned(store.root))
        for folder in (store.sweeps_path, store.submissions.path):
            yield from _leftovers(folder)


def _leftovers(top: Path) -> Iterator[Garbage]:
    """Temporary files in a folder and below."""
    for folder, _, _ in os.walk(top):
        yield from (_temporary(path) for path in abandoned(Path(folder)))


def _temporary(path: Path) -> Garbage:
    return Garbage(path, "temporary file of a dead process", _size(path))


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)
