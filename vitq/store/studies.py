"""What `vitq tune` tried and found, for readers: `<root>/sweeps/<study>/study.json`.

The study itself is the journal beside it, which many processes share; this record is made from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vitq.config.tuning import OptionRange
from vitq.store.atomic import write_bytes
from vitq.store.files import read_record
from vitq.store.record import Count, StoredRecord
from vitq.store.rundir import RunDir
from vitq.store.store import Store


class TrialRecord(StoredRecord):
    """One choice of options.

    options: key below `method` → value. signature: of its run, None before it is planned. kl: KL(full precision ‖
    quantized) on the held-out images, nats; None where the run has none (failed, not finite). seconds: of the run.
    """

    number: Count
    state: Literal["running", "done", "failed"]
    options: dict[str, Any]
    signature: str | None = None
    kl: float | None = None
    seconds: float | None = None


class Gain(StoredRecord):
    """How much less KL the best trial has than the recipe's own options, on the same held-out images.

    mean: over the images, nats. error: its standard error. The best of many trials is chosen by these images, so the
    mean is too favourable; one within two standard errors is no gain.
    """

    mean: float
    error: float

    @property
    def is_shown(self) -> bool:
        """Whether it is beyond two standard errors."""
        return self.mean > 2 * self.error

    def line(self) -> str:
        """In words."""
        verdict = "a gain" if self.is_shown else "no gain shown: within two standard errors"
        return f"{self.mean:.3g} ± {self.error:.2g} nats less KL than the recipe's own options, {verdict}"


class StudyRecord(StoredRecord):
    """A study: a sweep of trials.

    own: the recipe's own options, which trial 0 has. importances: share of each option in the spread of KL, summing to
    1; empty where there are too few trials to say. recipe: file of the tuned recipe. gain: of the best trial over the
    recipe's own options; None where that is the best, or a record does not have the KL of each image.
    """

    name: str
    method: str
    held_out: Count
    ranges: dict[str, OptionRange]
    own: dict[str, Any]
    trials: list[TrialRecord]
    importances: dict[str, float] = Field(default_factory=dict)
    recipe: str | None = None
    gain: Gain | None = None

    @property
    def finished(self) -> list[TrialRecord]:
        """Trials with a KL, in the order in which they were asked for."""
        return [trial for trial in self.trials if trial.kl is not None]

    @property
    def best(self) -> TrialRecord | None:
        """The finished trial of least KL, of equal ones the first."""
        return min(self.finished, key=lambda trial: (trial.kl, trial.number), default=None)

    @property
    def own_trial(self) -> TrialRecord | None:
        """The finished trial with the recipe's own options."""
        return next((trial for trial in self.finished if trial.options == self.own), None)

    @property
    def seconds(self) -> float:
        """What the trials' runs took together."""
        return sum(trial.seconds or 0.0 for trial in self.trials)


class StudyDir(RunDir):
    """The folder of a study: its mirror is remembered there as a run's is in the run's."""

    def __init__(self, store: Store, name: str):
        super().__init__(store.sweep_folder(name))
        self.store = store

    def is_done(self) -> bool:
        """Whether the study has ended with a recipe. Raises StoreError when its record is unreadable."""
        study = read_study(self.store, self.signature)
        return study is not None and study.recipe is not None


def journal_path(store: Store, name: str) -> Path:
    """The file that the processes of a study share."""
    return store.sweep_folder(name) / "journal.log"


def write_study(store: Store, record: StudyRecord) -> None:
    """Store a record in place of an earlier one. Raises StoreError."""
    write_bytes(_path(store, record.name), record.to_json().encode())


def read_study(store: Store, name: str) -> StudyRecord | None:
    """The record of a study; None where the sweep is none. Raises StoreError when it is unreadable."""
    return read_record(_path(store, name), StudyRecord, "move it away; `vitq tune` writes it again")


def _path(store: Store, name: str) -> Path:
    return store.sweep_folder(name) / "study.json"
