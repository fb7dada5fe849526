"""The mirror of a study of `vitq tune`: a W&B run named as the study, in the group of its trials."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from vitq.config import RunConfig
from vitq.errors import StoreError
from vitq.store import mirror_record
from vitq.store.studies import StudyDir, StudyRecord, read_study
from vitq.track.content import Part
from vitq.track.faults import Warner
from vitq.track.session import WandbSession


def mirror(config: RunConfig, study_dir: StudyDir, mode: str | None = None) -> bool:
    """Log a stored study; whether W&B has all of it. config: of a trial. mode: instead of the config's.

    History: `kl` and `kl_least` of each trial, nats. Charts: `tuning/curve`, `tuning/importances`. Table: `trials`.
    Summary: `kl`, `kl_own` (with the recipe's own options), `held_out`, `trials_done`, `seconds`,
    `gain` and `gain_error` (of the best over these, nats), `best/OPTION`.
    """
    record = read_study(study_dir.store, study_dir.signature)
    if record is None or record.best is None:
        return False
    name = study_dir.signature
    session = WandbSession.start(config, name, study_dir, Warner(study_dir), mode, title=name)
    if session is None:
        return False
    session.study(Part("the study", partial(_log, record)))
    return session.finished()


def rebuild(study_dir: StudyDir) -> Path:
    """Write a new offline W&B run of a study; returns its folder. Raises StoreError where there is nothing to show, and
    where W&B does not take it."""
    record = read_study(study_dir.store, study_dir.signature)
    trial = None if record is None else record.best
    if trial is None or trial.signature is None:
        text = f"cannot rebuild the mirror of {study_dir.signature}: no trial of it has a KL; go on with `vitq tune`"
        raise StoreError(text, "study", study_dir.signature)
    config, problems = RunConfig.parse(study_dir.store.run(trial.signature).read_config())
    if config is None:
        raise StoreError(f"cannot read the config of {trial.signature}: {'; '.join(problems)}; tune again")
    complete = mirror(dataclasses.replace(config, runs_dir=str(study_dir.store.root)), study_dir, "offline")
    known = mirror_record.read(study_dir)
    if not complete or known is None:
        raise StoreError(f"cannot rebuild the mirror of {study_dir.signature}; {study_dir.log_path} says why")
    return Path(known.sync_dir)


def _log(record: StudyRecord, run: Any) -> None:
    import wandb

    from vitq.report.study import curve, importances

    least = float("inf")
    for trial in record.finished:
        assert trial.kl is not None
        least = min(least, trial.kl)
        run.log({"trial": trial.number, "kl": trial.kl, "kl_least": least})
    columns: list[Any] = ["trial", "state", "kl", "seconds", "signature", *record.ranges]
    rows: list[Any] = [
        [trial.number, trial.state, trial.kl, trial.seconds, trial.signature]
        + [_cell(trial.options.get(key)) for key in record.ranges]
        for trial in record.trials
    ]
    charts = {"tuning/curve": curve(record)} | (
        {"tuning/importances": importances(record)} if record.importances else {}
    )
    table = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
    run.log({"trials": table} | {name: wandb.Plotly(figure) for name, figure in charts.items()})
    run.summary.update(_summary(record))


def _summary(record: StudyRecord) -> dict[str, Any]:
    best = record.best
    assert best is not None
    own = None if record.own_trial is None else record.own_trial.kl
    facts = {
        "kl": best.kl, "kl_own": own, "held_out": record.held_out, "trials_done": len(record.finished),
        "seconds": record.seconds,
    }  # fmt: skip
    if record.gain is not None:
        facts |= {"gain": record.gain.mean, "gain_error": record.gain.error}
    options = {f"best/{key.replace('.', '/')}": _cell(value) for key, value in best.options.items()}
    return {key: value for key, value in (facts | options).items() if value is not None}


def _cell(value: Any) -> Any:
    """A list, which a column of numbers cannot hold, as text."""
    return str(value) if isinstance(value, list | tuple | dict) else value
