"""The loop: ask for trials, plan and execute their runs, tell how they ended; at last the recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vitq import track
from vitq.config import RunConfig
from vitq.errors import ConfigError, Problem, StoreError, VitqError, brief
from vitq.planning.compose import Primary
from vitq.planning.display import Show
from vitq.planning.estimate import History
from vitq.planning.launcher import launch, launcher_of
from vitq.planning.plan import Plan
from vitq.store import Store, claim
from vitq.store.drivers import drivers, driving
from vitq.store.studies import StudyDir, StudyRecord, TrialRecord, journal_path, write_study
from vitq.tuning import recipe, space
from vitq.tuning.trials import Trials, commit, gain, identity, outcome, plan_of

if TYPE_CHECKING:
    from vitq.tuning.study import Study

# Trials of a round are at most so many, whatever a launcher could do at a time: each of them is asked for without the
# results of the others.
_MOST = 16


@dataclass(frozen=True)
class TuningBudget:
    """When a study ends: at so many trials, or when the runs of its trials took so many seconds together."""

    trials: int | None = None
    seconds: float | None = None

    def ends(self, known: list[TrialRecord]) -> bool:
        """Whether no new trial is asked for."""
        spent = sum(trial.seconds or 0.0 for trial in known)
        return (self.trials is not None and len(known) >= self.trials) or (
            self.seconds is not None and spent >= self.seconds
        )


@dataclass
class Tuning:
    """A method's options under tuning, planned: nothing is written before `run`.

    own: the recipe's options. parallel: trials of a round.
    """

    trials: Trials
    name: str
    held_out: int
    recipe_name: str
    first: Plan
    own: dict[str, object]
    parallel: int
    problems: dict[int, str] = field(default_factory=dict)

    @staticmethod
    def of(
        primary: Primary, held_out: int, name: str | None = None, as_: str | None = None, parallel: int | None = None
    ) -> Tuning:
        """Plan the recipe's own options and both ends of their ranges. Raises ConfigError with all that is wrong.

        name: of the study; None: `tune_METHOD_MODEL_BITS`. as_: of the tuned recipe; None: `METHOD_tuned_MODEL_BITS`.
        parallel: None: as many as the launcher executes at a time.
        """
        trials = Trials(primary, held_out)
        first = trials.plan({}, "trial 0")
        config = first.runs[0].config
        if config.task != "classification":
            text = f"task={config.task}: options are chosen by the KL of class probabilities, which it does not have"
            raise ConfigError([Problem(text, "task", config.task, ["classification"])])
        own = space.own_options(config)
        for options in space.ends(config.method.tune):
            trials.plan(space.changed(own, options), "")
        if as_ is not None and (not as_ or as_ != _plain(as_)):
            text = f"--as {as_!r}: a recipe's name becomes a file name; valid: letters, digits, '_' and '-'"
            raise ConfigError([Problem(text, "--as", as_)])
        where = f"{primary_name(primary, config)}_{_plain(config.bits.label.lower())}"
        name = name or f"tune_{_plain(config.method.name)}_{where}"
        plan_of([first], name, "")  # is it a name of a sweep?
        if parallel is None:
            outlined = launcher_of(first).preview(list(first.runs) * _MOST, History(()))
            parallel = max(1, min(_MOST, outlined.parallel))
        return Tuning(
            trials, name, held_out, as_ or f"{_plain(config.method.name)}_tuned_{where}", first, own, parallel
        )

    @property
    def config(self) -> RunConfig:
        """Of the trial with the recipe's own options."""
        return self.first.runs[0].config

    @property
    def store(self) -> Store:
        return self.first.store

    def run(
        self, budget: TuningBudget, command: str, show: Callable[[int], Show], out: Path | None = None
    ) -> StudyRecord:
        """Go on with the study until the budget ends it, and write the tuned recipe.

        show: makes the display of a round of so many runs. out: folder of config groups for the recipe; None: `conf`
        in the store. Trials that a killed process left are finished first; those of a living one are waited for.
        Raises VitqError where no trial has a KL, and where the recipe's file is another one.
        """
        from vitq.tuning.study import Study

        path = self._recipe_path(out)
        if not recipe.may_be_written(path):
            text = f"{path} is no recipe of vitq tune and would be overwritten; give another name with --as"
            raise VitqError(text, "--as", self.recipe_name)
        study = Study(
            journal_path(self.store, self.name), identity(self.config), self.config.method.tune, self.own,
            self.config.seed,
        )  # fmt: skip
        with driving(self.store, self.name) as me:
            while batch := self._next(study, budget, me.token):
                self._round(study, batch, command, show)
        return self._conclude(study, path)

    def _recipe_path(self, out: Path | None) -> Path:
        return (self.store.root / "conf" if out is None else out) / "method" / f"{self.recipe_name}.yaml"

    def _next(self, study: Study, budget: TuningBudget, me: str) -> list[TrialRecord]:
        """The trials of the next round; none when the study has ended."""
        alive = {driver.token for driver in drivers(self.store, self.name)}
        if left := [trial for trial in study.left(alive) if not self._is_executed(trial)]:
            return left
        known = study.trials()
        asked = [] if budget.ends(known) else study.ask(budget.trials, self.parallel, me)
        # At the end those of other processes are waited for.
        return asked or [trial for trial in known if trial.state == "running"]

    def _is_executed(self, trial: TrialRecord) -> bool:
        """Whether a living process, be it on another machine, is at a trial's run."""
        try:
            return claim.is_held(self.store.run(self._planned(trial).runs[0].signature))
        except ConfigError:
            return False

    def _round(self, study: Study, batch: list[TrialRecord], command: str, show: Callable[[int], Show]) -> None:
        """Execute the runs of some trials and tell how they ended."""
        planned: dict[int, Plan] = {}
        for trial in batch:
            try:
                planned[trial.number] = self._planned(trial)
            except ConfigError as error:
                # Valid at the ends of the ranges, but not between them.
                self.problems[trial.number] = brief(error)
                study.tell(trial.number, "", None, None)
        if not planned:
            return
        plan = plan_of(list(planned.values()), self.name, self.description)
        commit(plan, study.trials(), command)
        launch(plan, show(len(plan.runs)))
        for number, one in planned.items():
            signature = one.runs[0].signature
            try:
                kl, seconds = outcome(self.store, signature)
            except StoreError as error:
                kl, seconds = None, None
                self.problems[number] = brief(error)
            if kl is None and number not in self.problems:
                status = self.store.run(signature).status_hint()
                self.problems[number] = (status.error if status else None) or "its run has no result"
            study.tell(number, signature, kl, seconds)
        self._record(study)

    def _planned(self, trial: TrialRecord) -> Plan:
        return self.trials.plan(space.changed(self.own, trial.options), f"trial {trial.number}")

    def _record(self, study: Study, path: Path | None = None) -> StudyRecord:
        trials = study.trials()
        record = StudyRecord(
            name=self.name,
            method=self.config.method.name,
            held_out=self.held_out,
            ranges=dict(self.config.method.tune),
            own=self.own,
            trials=trials,
            importances=study.importances(),
            recipe=None if path is None else str(path),
        )
        record = record.model_copy(update={"gain": gain(self.store, record)})
        write_study(self.store, record)
        return record

    def _conclude(self, study: Study, path: Path) -> StudyRecord:
        record = self._record(study)
        best = record.best
        if best is None:
            reasons = "; ".join(dict.fromkeys(self.problems.values())) or "`vitq status` says why"
            raise VitqError(f"no trial of study {self.name} has a KL: {reasons}", "study", self.name)
        method = self._planned(best).runs[0].config.method
        recipe.write(path, self.recipe_name, method, record)
        whole = self._record(study, path)
        track.mirror_study(self.config, StudyDir(self.store, self.name))
        return whole

    @property
    def description(self) -> str:
        """Of the sweep that the trials are."""
        return (
            f"Trials of vitq tune: options of {self.config.method.name} by KL on {self.held_out} images held out of "
            "calibration; accuracies here are of those images, not of the evaluation split."
        )


def primary_name(primary: Primary, config: RunConfig) -> str:
    """The model's name as it was chosen: `deit_tiny`."""
    chosen = primary.axes.get("model") or ()
    return _plain(chosen[0] if chosen else config.model.name)


def _plain(name: str) -> str:
    """A name as part of a file's: `scale_predictor(ias_vit)` → `scale_predictor_ias_vit`."""
    return "_".join(part for part in "".join(c if c.isalnum() or c in "-_" else " " for c in name).split())
