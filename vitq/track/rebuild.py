"""The mirror of a run made again, from its record alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vitq.config import RunConfig
from vitq.errors import StoreError
from vitq.store import RunDir, Store, mirror_record
from vitq.store.studies import StudyDir
from vitq.track import study
from vitq.track.faults import Warner
from vitq.track.session import WandbSession


def rebuild(run_dir: RunDir, group: str | None) -> Path:
    """Write a new offline W&B run with what `runs/` knows; returns its folder, the newest of the run from now on.

    The stored config says where it lies. Group, config, summary, tables and exit code are those of the live run; what
    only W&B itself saw (system metrics, its clock) is not in `runs/`.
    group: name of a sweep; None: that of the last attempt.
    The folder of a study (`StudyDir`) has a mirror of its own, with its curve and its trials.
    Raises StoreError where the run has neither a result nor a recorded failure, where its record is unreadable, and
    where W&B does not take it.
    """
    if isinstance(run_dir, StudyDir):
        return study.rebuild(run_dir)
    config, status = _config(run_dir), run_dir.read_status()
    result = run_dir.read_result()
    state = status.state if status else "planned"
    if result is None and state != "failed":
        text = (
            f"cannot rebuild the mirror of {run_dir.signature}: the run is {state}; "
            "only finished and failed runs have something to show"
        )
        raise StoreError(text, "state", state, ["done", "failed"])
    sites = run_dir.read_sites() if result is not None else None
    refused = StoreError(f"cannot rebuild the mirror of {run_dir.signature}; {run_dir.log_path} says why")
    group = group or remembered(run_dir)
    session = WandbSession.start(config, group, run_dir, Warner(run_dir), "offline")
    if session is None:
        raise refused
    if result is not None and sites is not None:
        session.result(result, sites)
        complete = session.finished()
    else:
        error = (status.error if status else None) or "no reason was recorded"
        complete = session.failed(error, status.stage if status else "")
    known = mirror_record.read(run_dir)
    if not complete or known is None:
        raise refused
    return Path(known.sync_dir)


def remembered(run_dir: RunDir) -> str | None:
    """Name of the sweep under which the last attempt was mirrored, else of the first sweep that lists the run."""
    try:
        known = mirror_record.read(run_dir)
    except StoreError:
        known = None  # WandbSession.start says so
    if known is not None and known.group:
        return known.group
    records, _ = Store(run_dir.path.parent).read_sweeps()  # `vitq status` says which ones are broken
    return next((record.name for record in records if run_dir.signature in record.signatures), None)


def _config(run_dir: RunDir) -> RunConfig:
    config, problems = RunConfig.parse(run_dir.read_config())
    if config is None:
        text = f"cannot read {run_dir.config_path}: {'; '.join(problems)}; plan the run again"
        raise StoreError(text, value=run_dir.config_path)
    # Where the record lies now, wherever the run was executed.
    return dataclasses.replace(config, runs_dir=str(run_dir.path.parent))
