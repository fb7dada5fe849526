"""Options of range searches that are set and that no run of a plan reads."""

from __future__ import annotations

import pytest

from tests.errors import is_about
from tests.fake_engine import FakeEngine, result_of
from tests.planning.plans import make, problems

WEIGHT = "method.kinds.weight"


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["method=minmax", f"{WEIGHT}.options.percentiles=[0.9]"], f"{WEIGHT}.options.percentiles"),
        (["method=minmax,percentile", f"{WEIGHT}.options={{candidates: 10}}"], f"{WEIGHT}.options.candidates"),
        (
            ["method=mptq_vit", "method.kinds.probs.range=minmax", "+method.kinds.probs.options.candidates=10"],
            "method.kinds.probs.options.candidates",
        ),
        (["method=percentile", f"{WEIGHT}.options.shrink_to=near"], f"{WEIGHT}.options.shrink_to"),
        (
            ["method=adalog", "method.kinds.probs.options.percentiles=[0.9]"],
            "method.kinds.probs.options.percentiles",
        ),
    ],
)
def test_an_option_of_a_range_search_that_no_run_reads(engine: FakeEngine, words: list[str], key: str) -> None:
    (problem,) = problems(*words)
    assert is_about(problem, key, key.rpartition(".")[2])


@pytest.mark.parametrize("word", ["method.iterations=5", "method.rates=sqrt"])
def test_iterations_that_no_step_reads_are_a_warning(engine: FakeEngine, word: str) -> None:
    """They are left out of such recipes, so that the run is the one without them."""
    key = word.partition("=")[0]
    assert [line for line in make("method=minmax,mse", word).warnings if line.startswith(key)]
    assert make("method=minmax,brecq", word).warnings == ()  # one of them learns
    assert make("method=minmax", "method.iterations=null", "method.rates=paper").warnings == ()


def test_what_would_read_it_is_said(engine: FakeEngine) -> None:
    (problem,) = problems("method=minmax,percentile", f"{WEIGHT}.options={{candidates: 10}}")
    assert is_about(problem, f"{WEIGHT}.options.candidates", "candidates")
    assert problem.action == f"{WEIGHT}.range=mse"


@pytest.mark.parametrize(
    "words",
    [
        # Options in the recipe's own file: the range alone is changed.
        ["method=ias_vit", f"{WEIGHT}.range=minmax,mse"],
        ["method=adalog", "method.kinds.post_norm.range=percentile"],
        # One of the runs reads it.
        ["method=minmax,percentile,mse", f"{WEIGHT}.options.percentiles=[0.9]"],
        [f"{WEIGHT}.range=minmax,mse", f"{WEIGHT}.options.candidates=10,20"],
        # Options of other searches: adalog's own, and SULQ's.
        ["method=adalog", "method.kinds.probs.range=minmax,mse", "method.kinds.probs.options.resolution=20"],
        ["method=ias_vit", "method.kinds.probs.range=minmax", "method.kinds.probs.options.etas=[0.01]"],
    ],
)
def test_ablations_of_a_range_search_are_no_mistake(engine: FakeEngine, words: list[str]) -> None:
    assert make(*words).runs


def test_a_finished_run_is_not_refused_for_an_option(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["method=minmax", f"{WEIGHT}.options.percentiles=[0.9]"]
    with monkeypatch.context() as patch:
        patch.setattr("vitq.planning.unread.Unread.problems", lambda self: [])
        first = make(*words)
    (run,) = first.runs
    first.commit()
    first.store.run(run.signature).write_result(result_of(run.config, run.signature))
    assert make(*words).runs[0].done
