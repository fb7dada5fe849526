"""Earlier records of a run that is computed once more: kept whole, under `history/`."""

from __future__ import annotations

import shutil
from pathlib import Path

from vitq.errors import StoreError
from vitq.store.claim import Claim
from vitq.store.rundir import RunDir

# The run's plan, its claim, where its mirror is, and its history.
_NOT_MOVED = ("config.yaml", "status.json", "claim", "tracker.json", "log.txt", "history")


def set_aside(run_dir: RunDir) -> Path | None:
    """Move the record of a finished run to `history/<when it finished>`; None where there is none.

    Everything is copied before anything is removed, the result first, so that a kill loses nothing. Raises StoreError
    when another process works on the run, and when the disk refuses.
    """
    result = run_dir.read_result() if run_dir.is_done() else None
    if result is None:
        return None
    claim = Claim.take(run_dir)
    if claim is None:
        text = f"another process works on run {run_dir.signature}; try again when it is through"
        raise StoreError(text, value=run_dir.path)
    with claim:
        kept = run_dir.path / "history" / result.provenance.finished_at.replace(":", "")
        part = kept.with_name(f"{kept.name}.part")
        try:
            shutil.rmtree(part, ignore_errors=True)
            ignored = shutil.ignore_patterns("claim*", "history", "state")
            if not kept.exists():
                shutil.copytree(run_dir.path, part, ignore=ignored)
                part.rename(kept)
            run_dir.result_path.unlink()
            for path in run_dir.path.iterdir():
                if path.name in _NOT_MOVED or path.name.startswith("claim"):
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            status = run_dir.status_hint()
            if status is not None:
                interrupted = {"state": "interrupted", "error": "its record was set aside, to be computed anew"}
                run_dir.write_status(status.model_copy(update=interrupted))
        except OSError as error:
            text = f"cannot set the record in {run_dir.path} aside: {error.strerror or error}"
            raise StoreError(text, value=run_dir.path) from error
    return kept
