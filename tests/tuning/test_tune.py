"""Tuning: trials are ordinary runs, and the best becomes a recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.errors import refuses
from tests.tuning.conftest import TunedEngine, bowl, run, tuning
from vitq import report
from vitq.cli import main
from vitq.config import RunConfig, canonical, signature
from vitq.errors import ConfigError, VitqError
from vitq.planning import background, compose, planner
from vitq.plots.tuning import curve
from vitq.store import Store
from vitq.store.studies import Gain, read_study
from vitq.tuning.trials import gain

KEYS = ("steps.learn.lr_rounding", "steps.learn.lr_scales", "steps.learn.rounding_weight", "steps.learn.drop")


def test_trials_are_runs_of_a_sweep_and_the_best_becomes_a_recipe(tuned: TunedEngine, tmp_path: Path) -> None:
    record = run(tuning(), trials=14)
    assert (record.name, record.method, record.held_out) == ("tune_qdrop_vit_digits_w3a3", "qdrop", 50)
    assert [trial.number for trial in record.trials] == list(range(14))
    assert {trial.state for trial in record.trials} == {"done"}
    assert record.seconds == 28.0
    assert record == read_study(Store("runs"), record.name)

    # Trial 0 is the recipe itself; the others have options of their own, and are runs of the sweep of that name.
    assert record.trials[0].options == record.own == dict(zip(KEYS, (1e-3, 4e-5, 0.01, 0.5), strict=True))
    assert record.trials[0].kl == 1.0
    assert [config.to_dict()["method"] for config in tuned.configs[:1]] == [plain("method=qdrop").to_dict()["method"]]
    sweep = Store("runs").read_sweep(record.name)
    assert sweep.signatures == [trial.signature for trial in record.trials] == tuned.executed
    assert set(tuned.groups) == {record.name}
    assert not Path("runs/sweeps/history").exists(), "a record that grows is no other one"
    assert [sweep.labels[signature] for signature in sweep.signatures] == [f"trial {n}" for n in range(14)]

    best = record.best
    assert best is not None
    assert best.kl == min(trial.kl for trial in record.finished if trial.kl is not None) < 0.5
    assert max(record.importances, key=lambda key: record.importances[key]) == KEYS[0]
    assert sum(record.importances.values()) == pytest.approx(1)

    # The images' KL differ by (1 - best) · (0, 2, 0.5, 1.5): mean 1, variance 5/6 with three degrees of freedom.
    assert record.gain is not None
    assert record.gain.mean == pytest.approx(1 - best.kl)
    assert record.gain.error == pytest.approx((1 - best.kl) * (5 / 6 / 4) ** 0.5)
    assert record.gain.is_shown

    path = Path("runs/conf/method/qdrop_tuned_vit_digits_w3a3.yaml")
    assert record.recipe == str(path.absolute())
    config = plain("method=qdrop_tuned_vit_digits_w3a3", config_dir="runs/conf")
    assert bowl(config) == best.kl
    assert {key: config.method.steps["learn"][key.rpartition(".")[2]] for key in KEYS} == best.options
    assert config.method.tuned is not None
    assert (config.method.tuned.kl, config.method.tuned.kl_before, config.method.tuned.trials) == (best.kl, 1.0, 14)
    # Its name aside, the recipe is what the best trial had, and it can be tuned again.
    (trial,) = [c for c in tuned.configs if signature(c) == best.signature]
    assert canonical(config)["method"] == canonical(trial)["method"] | {"name": "qdrop_tuned_vit_digits_w3a3"}
    assert config.method.tune == trial.method.tune
    html = report.build(Store("runs"), record.name, ["html"])["html"].read_text()
    assert "qdrop: KL on 50 held-out images" in html
    assert "qdrop: what KL depends on" in html
    assert path.read_text().startswith("# qdrop with options chosen by vitq tune: KL ")
    # A sweep that names both says whose the options of each are.
    file, search_path = compose.root_config("runs/conf")
    words = ["bits=w3a3", "tracker=none", "method=qdrop,qdrop_tuned_vit_digits_w3a3"]
    both = planner.make(compose.load(file, search_path, words, multirun=True)).runs
    assert [one.options for one in both] == ["paper's", "tuned (14 trials, 28 s)"]


def plain(*words: str, config_dir: str | None = None) -> RunConfig:
    file, search_path = compose.root_config(config_dir)
    return planner.make(compose.load(file, search_path, ["bits=w3a3", "tracker=none", *words])).runs[0].config


def test_no_trial_names_the_evaluation_split(tuned: TunedEngine) -> None:
    run(tuning("data.eval_limit=7", "probe=hessian"), trials=3)
    assert {(c.data.scored_split, c.data.eval_split, c.data.held_out) for c in tuned.configs} == {
        ("calib", "calib", 50)
    }
    assert {(c.data.eval_limit, tuple(c.probe.wanted), c.keep_model) for c in tuned.configs} == {(None, (), False)}


def test_the_budget_is_of_the_whole_study(tuned: TunedEngine) -> None:
    assert len(run(tuning(), trials=2).trials) == 2
    assert len(run(tuning(), trials=2).trials) == 2
    assert len(tuned.executed) == 2
    assert len(run(tuning(), seconds=9).trials) == 5  # of two seconds each; the fifth ends beyond
    assert len(run(tuning(), trials=6, seconds=100).trials) == 6


@pytest.mark.parametrize("seconds", ["0", "-3", "nan", "inf"])
def test_a_budget_that_allows_no_trial_or_never_ends(tuned: TunedEngine, seconds: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["tune", "qdrop", "tracker=none", "--held-out", "50", "--seconds", seconds])
    assert ended.value.code == 2
    assert tuned.executed == []
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["", "a/b", "../b", "a b", "b.yaml"])
def test_a_name_that_no_recipe_can_have(tuned: TunedEngine, name: str) -> None:
    with refuses(ConfigError, "--as", name):
        tuning(as_=name)
    assert not Path("runs").exists()


def test_a_recipe_of_somebody_else_is_not_overwritten(tuned: TunedEngine, tmp_path: Path) -> None:
    own = tmp_path / "conf" / "method" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("name: mine\n")
    with refuses(VitqError, "--as", "mine"):
        run(tuning(as_="mine"), trials=2, out=tmp_path / "conf")
    assert (own.read_text(), tuned.executed) == ("name: mine\n", [])
    own.unlink()
    for trials in (2, 3):  # its own it writes again
        record = run(tuning(as_="mine"), trials=trials, out=tmp_path / "conf")
        assert (record.recipe, len(record.trials)) == (str(own), trials)


def test_bits_with_exceptions_give_names_without_a_star(tuned: TunedEngine) -> None:
    one = tuning("bits.first_last=8")
    assert (one.config.bits.label, one.name) == ("W3A3*", "tune_qdrop_vit_digits_w3a3")
    assert one.recipe_name == "qdrop_tuned_vit_digits_w3a3"


def test_failed_trials_stop_nothing_and_infinite_ones_are_never_the_best(tuned: TunedEngine) -> None:
    def diverge(config: RunConfig) -> float:
        return float("nan") if bowl(config) > 2 else bowl(config)

    def fail(config: RunConfig) -> None:
        if len(tuned.executed) == 2:
            raise ValueError("no memory")

    tuned.kl, tuned.fail = diverge, fail
    one = tuning()
    record = run(one, trials=12)
    assert [trial.number for trial in record.trials if trial.state == "failed"] == [1]
    assert one.problems.keys() == {1}
    assert {trial.kl for trial in record.trials if trial.state == "done"} & {None}
    best = record.best
    assert best is not None
    assert best.kl is not None
    tuned.fail = lambda config: None


def test_no_trial_with_a_result(tuned: TunedEngine) -> None:
    def fail(config: RunConfig) -> None:
        raise ValueError("no memory")

    tuned.fail = fail
    with refuses(VitqError, "study", "tune_qdrop_vit_digits_w3a3"):
        run(tuning(), trials=2)
    assert not Path("runs/conf").exists()


def test_equal_choices_are_one_run(tuned: TunedEngine) -> None:
    tuned.kl = lambda config: 0.1
    two = tuning("~method.tune", "+method.tune={steps.gptq.act_order: {choices: [false, true]}}", method="gptq")
    record = run(two, trials=6)
    assert len(record.finished) == 6
    assert len(tuned.executed) == len({trial.signature for trial in record.trials}) == 2
    assert record.best == record.trials[0]
    assert record.importances == {}, "nothing depends on it"


def test_rounds_are_as_wide_as_the_launcher(tuned: TunedEngine) -> None:
    assert tuning().parallel == 1
    assert tuning("launcher=local", "launcher.options.slots=3").parallel == 3
    assert tuning(parallel=5).parallel == 5
    record = run(tuning(parallel=5), trials=7)
    assert len(record.trials) == len(tuned.executed) == 7


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (("method=minmax",), "method.tune", None),
        (("+method.tune.drop={low: 1, high: 2}",), "method.tune.drop", "drop"),
        (("method.steps.learn.rounding_weight=2",), "method.tune.steps.learn.rounding_weight", 2),
        (("method.steps.learn.lr_scales=0.5",), "method.tune.steps.learn.lr_scales", 0.5),
    ],
)
def test_wrong_ranges(tuned: TunedEngine, words: tuple[str, ...], key: str, value: object) -> None:
    with refuses(ConfigError, key, value):
        tuning(*words)
    assert not Path("runs").exists()


def test_detached_it_is_the_same_command_in_the_background(
    tuned: TunedEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[tuple[list[str], Path]] = []

    def start(words: list[str], log: Path) -> str:
        started.append((words, log))
        return "process 7"

    monkeypatch.setattr(background, "start_detached", start)
    words = ["tune", "qdrop", "bits=w3a3", "tracker=none", "--trials", "3", "--held-out", "50"]
    assert main([*words, "--detach"]) == 0
    assert started == [(words, Path("runs/sweeps/tune_qdrop_vit_digits_w3a3/driver.log").absolute())]
    assert capsys.readouterr().out.splitlines()[0] == "process 7"
    assert tuned.executed == []
    # What is wrong is said before anything goes to the background.
    assert main(["tune", "minmax", "bits=w3a3", "tracker=none", "--detach"]) == 2
    assert len(started) == 1


def test_a_gain_within_two_standard_errors_is_none() -> None:
    assert not Gain(mean=0.19, error=0.1).is_shown
    assert Gain(mean=0.21, error=0.1).is_shown


def test_records_without_the_kl_of_each_image_say_nothing_of_a_gain(tuned: TunedEngine) -> None:
    record = run(tuning(), trials=4)
    best = record.best
    assert best is not None
    assert record.gain is not None
    assert best.signature is not None
    own = record.own_trial
    assert own is not None
    run_dir = Store("runs").run(best.signature)
    run_dir.write_predictions({"correct": np.ones(4, bool)})
    assert gain(Store("runs"), record) is None
    run_dir.predictions_path.unlink()
    assert gain(Store("runs"), record) is None
    only = record.model_copy(update={"trials": [own]})
    assert gain(Store("runs"), only) is None, "the recipe's own options are the best"


def test_no_name_of_an_option_is_cut_in_the_table(
    tuned: TunedEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert (
        main(["tune", "qdrop", "model=vit_digits", "tracker=none", "bits=w3a3", "--held-out", "50", "--trials", "4"])
        == 0
    )
    out = capsys.readouterr().out
    assert "…" not in out
    assert "by 4 trials" in out


def test_the_curve_of_a_study_has_its_own_options_where_they_are() -> None:
    figure = curve([(0, 4.4, "own"), (1, 4.2, "b"), (3, 4.5, "c")], own=4.4)
    lines = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data if trace.mode == "lines"}
    assert lines == {"least so far": ([0, 1, 3], [4.4, 4.2, 4.2]), "own options": ([0, 3], [4.4, 4.4])}
    assert figure.layout.yaxis.type == "log"
    assert not figure.layout.annotations, "theirs would be powers of ten"
