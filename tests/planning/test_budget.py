"""Equal effort: pilots say what an iteration costs, and every method gets the iterations that the budget allows."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console

from tests.errors import refuses
from tests.fake_engine import FakeEngine
from vitq import report
from vitq.config import RunConfig
from vitq.config.search_path import ConfigPath, sweep_file
from vitq.errors import ConfigError, VitqError
from vitq.planning import compose, planner
from vitq.planning.budget import FEWEST, pilots_of
from vitq.planning.display import Show
from vitq.planning.launcher import launch
from vitq.planning.pilots import pilots_first
from vitq.planning.plan import Plan
from vitq.progress import Progress
from vitq.store import RunDir, Store
from vitq.store.result import Result

# Seconds of an iteration, and of the steps that do not learn.
COST = {"ias_vit": (0.01, 3.0), "qdrop": (0.1, 1.0), "minmax": (0.0, 0.5)}
# Seconds that each learning step takes before its first iteration, where they are timed apart.
PREPARED: dict[str, float] = {}


@dataclass
class TimedEngine(FakeEngine):
    """Writes how long the steps of a run would take."""

    def execute(self, run_dir: RunDir, progress: Progress, tracker: Any, group: str | None = None) -> Result:
        """See Engine."""
        result = super().execute(run_dir, progress, tracker, group)
        config, _ = RunConfig.parse(run_dir.read_config())
        assert config is not None
        stages = {"evaluate": 7.0}
        if config.method.name in COST:
            each, fixed = COST[config.method.name]
            learning = self.learning(config)
            stages |= {f"steps.{name}": each * (config.method.iterations or 0) / len(learning) for name in learning}
            if config.method.name in PREPARED:
                for name in learning:
                    stages[f"iterations.{name}"] = stages[f"steps.{name}"]
                    stages[f"steps.{name}"] += PREPARED[config.method.name]
            stages["steps.weights"] = fixed
        timings = result.timings.model_copy(update={"stages": stages, "resumed": run_dir.state_dir.exists()})
        result = result.model_copy(update={"timings": timings})
        run_dir.write_result(result)
        return result


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> TimedEngine:
    one = TimedEngine()
    one.install(monkeypatch)
    return one


def show(name: str, runs: int) -> Show:
    return Show(Console(file=io.StringIO()), name, runs)


def made(*words: str) -> Callable[[], Plan]:
    file, search_path = compose.root_config()
    all_words = ["tracker=none", "method=fp32,minmax,ias_vit,qdrop", "bits=w4a4,w3a3", "seed=0,1", *words]
    return lambda: planner.make(compose.load(file, search_path, all_words, multirun=True), name="fair")


def iterations(plan: Plan) -> dict[str, set[int | None]]:
    out: dict[str, set[int | None]] = {}
    for run in plan.runs:
        out.setdefault(run.config.method.name, set()).add(run.config.method.iterations)
    return out


def test_pilots_come_first_and_every_method_gets_what_the_budget_allows(timed: TimedEngine) -> None:
    make = made("sweep.budget_seconds=20")
    before = make()
    assert len(before.pilots) == 2 * 2, "of each method and bit-width, whatever the seeds"
    assert {run.config.method.iterations for run in before.pilots} == {FEWEST}
    plan = pilots_first(make, show)
    assert plan.pilots == ()
    assert iterations(plan) == {"fp32": {None}, "minmax": {None}, "ias_vit": {1700}, "qdrop": {190}}
    assert len(timed.executed) == 4
    assert Store("runs").read_sweep("fair-pilots").signatures == timed.executed
    # The same sweep later: the same runs, whatever else was finished meanwhile.
    plan.commit()
    launch(plan, show("fair", len(plan.runs)))
    again = pilots_first(make, show)
    assert [run.signature for run in again.runs] == [run.signature for run in plan.runs]
    assert all(run.done for run in again.runs)


def test_rates_follow_the_iterations_of_the_budget(timed: TimedEngine) -> None:
    """What an iteration costs is known from the pilots of any rates."""
    known = pilots_first(made("sweep.budget_seconds=20", "bits=w4a4", "seed=0"), show)
    make = made("sweep.budget_seconds=20", "bits=w4a4", "seed=0", "method.rates=suited")
    assert make().pilots == ()
    methods = {run.config.method.name: run.config.method for run in make().runs}
    assert [(name, one.iterations, one.rates) for name, one in methods.items()] == [
        ("fp32", None, "paper"), ("minmax", None, "paper"), ("ias_vit", 1700, "sqrt"), ("qdrop", 190, "sqrt")
    ]  # fmt: skip
    assert {run.signature for run in make().runs} != {run.signature for run in known.runs}
    assert make().runs[-1].options.startswith("scaled to 20 s (190 iterations, rates=sqrt)")


def test_what_comes_before_the_iterations_does_not_grow_with_them(
    timed: TimedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PREPARED, "qdrop", 9.0)
    monkeypatch.setitem(PREPARED, "ias_vit", 2.0)
    plan = pilots_first(made("sweep.budget_seconds=20"), show)
    # (20 - 1 - 9) / 0.1; two steps learn in ias_vit: (20 - 3 - 2 * 2) / 0.01.
    assert iterations(plan) == {"fp32": {None}, "minmax": {None}, "ias_vit": {1300}, "qdrop": {100}}
    with refuses(ConfigError, "sweep.budget_seconds", 9.5):
        pilots_first(made("sweep.budget_seconds=9.5", "method=qdrop"), show)


def test_a_pilot_costs_in_proportion_to_the_budget(timed: TimedEngine) -> None:
    config = made("method=ias_vit", "bits=w4a4", "seed=1", "method.iterations=7")().runs[0].config
    counts = {seconds: pilots_of(config, seconds)[0].method.iterations for seconds in (0.5, 20.0, 120.0, 600.0, 9000.0)}
    assert counts == {0.5: 5, 20.0: 5, 120.0: 5, 600.0: 25, 9000.0: 50}
    assert [(one.seed, one.data.eval_limit, one.data.eval_choice) for one in pilots_of(config, 120.0)] == [
        (0, 64, "spread"), (0, 64, "spread"), (0, None, None)
    ]  # fmt: skip
    limited = dataclasses.replace(config, data=dataclasses.replace(config.data, eval_limit=9, eval_choice="first"))
    assert {(one.data.eval_limit, one.data.eval_choice) for one in pilots_of(limited, 120.0)} == {(9, "first")}


def test_a_pilot_that_an_earlier_attempt_began_is_computed_again(timed: TimedEngine) -> None:
    make = made("sweep.budget_seconds=20", "method=ias_vit", "bits=w4a4", "seed=0")
    pilots_first(make, show)
    run_dir = Store("runs").run(timed.executed[0])
    whole = run_dir.require_result()
    timings = whole.timings.model_copy(update={"stages": {"steps.stage1": 1e-6}, "resumed": True})
    run_dir.write_result(whole.model_copy(update={"timings": timings}))
    plan = pilots_first(make, show)
    assert (iterations(plan), timed.executed) == ({"ias_vit": {1700}}, 2 * [run_dir.signature])


def test_a_pilot_that_was_killed_begins_anew(timed: TimedEngine) -> None:
    """What it would go on from would hide what its iterations cost."""
    make = made("sweep.budget_seconds=20", "method=ias_vit", "bits=w4a4", "seed=0")
    (pilot,) = make().pilots
    state = Store("runs").run(pilot.signature).state_dir
    state.mkdir(parents=True)
    (state / "stage1.safetensors").touch()
    assert iterations(pilots_first(make, show)) == {"ias_vit": {1700}}
    assert timed.executed == [pilot.signature]


def test_pilots_of_earlier_versions_are_as_good(timed: TimedEngine) -> None:
    words = ("method=ias_vit", "bits=w4a4", "seed=0")
    old = made(*words, "method.iterations=50")()
    old.commit()
    launch(old, show("old", len(old.runs)))
    plan = pilots_first(made("sweep.budget_seconds=20", *words), show)
    assert (iterations(plan), timed.executed) == ({"ias_vit": {1700}}, [old.runs[0].signature])


def test_the_shipped_fair_table(timed: TimedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every learning method of it has a pilot, then the iterations that fill the same seconds."""
    cost = {"ias_vit": 0.5, "qdrop": 0.2, "adaround": 0.1, "brecq": 0.25, "aocq": 0.4}
    cost |= {
        "adalog_reconstruct": 0.3,
        "aphq_vit": 0.6,
        "fima_q": 0.7,
        "ls_vit": 0.8,
        "glf_q": 0.9,
        "rols_distill": 1.1,
    }
    for name, each in cost.items():
        monkeypatch.setitem(COST, name, (each, 10.33))
    primary = compose.load(sweep_file("deit_tiny_fair"), ConfigPath.of(), ["tracker=none", "data.root=images"])

    def make() -> Plan:
        return planner.make(primary)

    before = make()
    assert (len(before.runs), len(before.pilots)) == (25, 22)
    assert {run.config.method.name for run in before.pilots} == {*cost}
    plan = pilots_first(make, show)
    assert len(plan.runs) == 47
    found = iterations(plan)
    assert {name: count for name, count in found.items() if count != {None}} == {
        name: {int(589.67 / each)} for name, each in cost.items()
    }
    assert {run.options for run in plan.runs if run.config.method.name == "ias_vit"} == {
        "scaled to 600 s (1179 iterations, rates=sqrt)"
    }


def test_the_table_says_whose_the_options_are(timed: TimedEngine) -> None:
    words = ("sweep.budget_seconds=20", "method=minmax,ias_vit,qdrop", "method.kinds.default.granularity=tensor")
    plan = pilots_first(made(*words), show)
    plan.commit()
    launch(plan, show("fair", len(plan.runs)))
    df = report.table(Store("runs"), "fair")
    assert sorted(set(df["method"])) == ["ias_vit", "minmax", "qdrop"], "no variant for each bit-width"
    by_method = df.groupby("method")["options"].first()
    assert by_method["ias_vit"] == "scaled to 20 s (1700 iterations), changed: kinds.default.granularity=tensor"
    assert by_method["minmax"] == "changed: kinds.default.granularity=tensor"
    assert df.groupby("method")["quantize_seconds"].first().to_dict() == pytest.approx(
        {"ias_vit": 20.0, "minmax": 0.5, "qdrop": 20.0}
    )


def test_a_recipe_of_no_paper_has_no_papers_options(engine: FakeEngine) -> None:
    plan = made("method=minmax,rols,repq_vit", "bits=w4a4", "seed=0")()
    plan.commit()
    launch(plan, show("fair", len(plan.runs)))
    df = report.table(Store("runs"), "fair")
    assert dict(zip(df["method"], df["options"], strict=True)) == {
        "minmax": "recipe's", "rols": "recipe's", "repq_vit": "paper's"
    }  # fmt: skip


def test_without_a_budget_options_are_the_papers(engine: FakeEngine) -> None:
    plan = made()()
    assert {run.options for run in plan.runs} == {"", "paper's"}
    assert plan.pilots == ()


def test_too_small_a_budget(timed: TimedEngine) -> None:
    with refuses(ConfigError, "sweep.budget_seconds", 2.0):
        pilots_first(made("sweep.budget_seconds=2", "method=ias_vit", "bits=w4a4"), show)


def test_iterations_and_a_budget_contradict(timed: TimedEngine) -> None:
    with refuses(ConfigError, "method.iterations", 9):
        made("sweep.budget_seconds=20", "method.iterations=9")()
    plan = pilots_first(made("sweep.budget_seconds=20", "method.iterations=null"), show)
    assert {run.options for run in plan.runs} == {
        "", "paper's", "scaled to 20 s (1700 iterations)", "scaled to 20 s (190 iterations)"
    }  # fmt: skip
    for seconds in ("-1", "inf", "nan"):
        with refuses(ConfigError, "sweep.budget_seconds"):
            made(f"sweep.budget_seconds={seconds}")()


def test_a_pilot_without_a_result(timed: TimedEngine) -> None:
    def fail(config: RunConfig) -> None:
        raise ValueError("no memory")

    timed.fail = fail
    with refuses(VitqError, "sweep.budget_seconds", "fair-pilots"):
        pilots_first(made("sweep.budget_seconds=20"), show)
