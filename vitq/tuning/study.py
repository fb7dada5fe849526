"""A study of Optuna in a journal file that many processes share; the one module that imports optuna."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from vitq.config.tuning import OptionRange
from vitq.errors import VitqError
from vitq.store.atomic import make_dir
from vitq.store.studies import TrialRecord

# Fewest finished trials of which importances are told.
_FEW = 4
_STATES = {TrialState.COMPLETE: "done", TrialState.RUNNING: "running", TrialState.WAITING: "running"}


class Study:
    """Asks for trials and is told their KL, which is minimized. Several processes may hold the same one.

    What a process asks for is under a lock, and follows from the seed and the trials before alone: a study that is
    killed goes on as if it had not been. The first trial has the recipe's own options.
    """

    def __init__(self, path: Path, identity: str, ranges: Mapping[str, OptionRange], own: Mapping[str, Any], seed: int):
        """path: of the journal. identity: what else the objective depends on; raises VitqError where the journal has
        another one, or cannot be read."""
        make_dir(path.parent)
        self._distributions = {key: _distribution(allowed) for key, allowed in ranges.items()}
        self._own, self._seed = own, seed
        self._asking = JournalFileOpenLock(str(path.with_suffix(".asking")))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            with self._locked():
                storage = JournalStorage(JournalFileBackend(str(path)))
                self._study = optuna.create_study(storage=storage, study_name=path.parent.name, load_if_exists=True)
                known = self._study.user_attrs.get("identity")
                if known is None:
                    self._study.set_user_attr("identity", identity)
        except (ValueError, KeyError) as error:  # JSON's error is a ValueError
            text = f"cannot read {path}: {error}; move it away, and the same command tries the same trials: finished "
            raise VitqError(text + "runs are not repeated", value=path) from error
        if known not in (None, identity):
            text = (
                f"study {path.parent.name!r} was begun with another config, ranges or number of held-out images; give "
                "the same, or name another study with --name"
            )
            raise VitqError(text, "--name", path.parent.name)

    def ask(self, trials: int | None, most: int, owner: str) -> list[TrialRecord]:
        """Up to `most` new trials, as long as the study has fewer than `trials`. owner: token of this process."""
        asked = []
        with self._locked():
            known = self._study.get_trials(deepcopy=False)
            for trial in known:
                if trial.state == TrialState.RUNNING and len(trial.params) < len(self._distributions):
                    # Whoever asked for it was killed meanwhile: nobody else holds the lock.
                    self._study.tell(trial.number, state=TrialState.FAIL)
            whole = self._complete(known)
            if not whole and not any(trial.state == TrialState.WAITING for trial in known):
                self._study.enqueue_trial({key: _encoded(value) for key, value in self._own.items()})
            room = most if trials is None else min(most, trials - len(whole))
            for number in range(len(known), len(known) + room):
                self._study.sampler = TPESampler(seed=self._seed + number, constant_liar=True)
                asked.append(self._study.ask(self._distributions).number)
                self._study.set_user_attr(f"owner-{asked[-1]}", owner)
        return [trial for trial in self.trials() if trial.number in asked]

    def trials(self) -> list[TrialRecord]:
        """All trials, in the order in which they were asked for."""
        ended = self._study.user_attrs
        known = self._complete(self._study.get_trials(deepcopy=False))
        return [_record(trial, *ended.get(str(trial.number), (None, None))) for trial in known]

    def left(self, alive: Collection[str]) -> list[TrialRecord]:
        """Trials that have not ended and whose process is not among the living. alive: tokens."""
        owners = self._study.user_attrs
        return [t for t in self.trials() if t.state == "running" and owners.get(f"owner-{t.number}") not in alive]

    def tell(self, number: int, signature: str, kl: float | None, seconds: float | None) -> None:
        """How a trial ended. kl: None where its run failed, infinite where it is no number.

        A trial that another process has told of already stays as it is.
        """
        with self._locked():
            trial = self._study.get_trials(deepcopy=False)[number]
            if trial.state.is_finished():
                return
            self._study.set_user_attr(str(number), [signature, seconds])
            state = TrialState.FAIL if kl is None else TrialState.COMPLETE
            self._study.tell(number, kl, state)

    def importances(self) -> dict[str, float]:
        """Share of each option in the spread of KL (PED-ANOVA), summing to 1; empty where too few trials say."""
        finished = [t for t in self._study.get_trials(deepcopy=False) if t.value is not None and math.isfinite(t.value)]
        if len(finished) < _FEW or len({trial.value for trial in finished}) == 1:
            return {}
        within = optuna.create_study()
        within.add_trials(finished)
        shares = get_param_importances(within, evaluator=PedAnovaImportanceEvaluator())
        return {key: share for key, share in shares.items() if math.isfinite(share)}

    def _complete(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Those with all their options: the others were never asked for in full."""
        return [trial for trial in trials if len(trial.params) == len(self._distributions)]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # A lock that a killed process left is taken over after half a minute.
        self._asking.acquire()
        try:
            yield
        finally:
            self._asking.release()


def _record(trial: FrozenTrial, signature: str | None, seconds: float | None) -> TrialRecord:
    finite = trial.value is not None and math.isfinite(trial.value)
    return TrialRecord(
        number=trial.number,
        state=_STATES.get(trial.state, "failed"),
        options={key: _decoded(value) for key, value in trial.params.items()},
        signature=signature,
        kl=trial.value if finite else None,
        seconds=seconds,
    )


def _distribution(allowed: OptionRange) -> BaseDistribution:
    if allowed.choices is not None:
        return CategoricalDistribution([_encoded(choice) for choice in allowed.choices])
    assert allowed.low is not None
    assert allowed.high is not None
    if allowed.whole:
        return IntDistribution(int(allowed.low), int(allowed.high), log=allowed.log)
    return FloatDistribution(float(allowed.low), float(allowed.high), log=allowed.log)


def _encoded(value: Any) -> Any:
    """What Optuna can keep: lists as JSON."""
    return json.dumps(value) if isinstance(value, list | tuple) else value


def _decoded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value
