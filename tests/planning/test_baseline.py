"""The baseline of a sweep is looked up before anything starts."""

from __future__ import annotations

from pathlib import Path

from tests.errors import is_about
from tests.fake_engine import FakeEngine
from tests.planning.plans import make, problems, sweep


def test_a_baseline_that_an_override_dropped_stops_nothing(engine: FakeEngine, tmp_path: Path) -> None:
    planned = sweep(tmp_path, "{baseline: minmax}")
    assert planned.warnings == ()
    planned = sweep(tmp_path, "{baseline: minmax, exclude: [{method: minmax}]}")
    (line,) = planned.warnings
    assert line.startswith("sweep.baseline=minmax: ")
    assert sweep(tmp_path, "{baseline: 'scale_predictor(mse)'}").warnings
    assert sweep(tmp_path, "{baseline: ''}").warnings == ()


def test_a_baseline_may_be_the_word_of_the_axis(engine: FakeEngine) -> None:
    """`method=scale_predictor` runs `scale_predictor(repq_vit)`: that is what results are called."""
    planned = make("method=minmax,scale_predictor", "sweep.baseline=scale_predictor")
    assert planned.warnings == ()
    planned.commit()
    assert planned.store.read_sweep("test").baseline == "scale_predictor(repq_vit)"


def test_a_baseline_that_is_several_methods_is_to_be_named(engine: FakeEngine) -> None:
    words = ["method=scale_predictor", "method.base=repq_vit,mse", "sweep.baseline=scale_predictor"]
    (problem,) = problems(*words)
    valid = ("scale_predictor(mse)", "scale_predictor(repq_vit)")
    assert is_about(problem, "sweep.baseline", "scale_predictor", valid)
    assert problem.valid == valid
