"""What runs will cost: medians over the past runs that are most alike."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import FakeEngine
from tests.report.conftest import config, correct, finish
from vitq.cli import main
from vitq.planning.estimate import Estimate, History, Past, facts, total
from vitq.store import Store
from vitq.store.result import Timings


def test_the_most_alike_runs_count() -> None:
    known = [Past(facts(config("mse", 4, calib=32)), s, 100) for s in (1.0, 2.0, 9.0)]
    known += [Past(facts(config("mse", 4, calib=64)), 50.0, 300), Past(facts(config("gptq", 8)), 70.0, 10)]
    history = History(known)
    assert history.estimate(config("mse", 4, calib=32)) == Estimate(
        2.0, 100, 3, ("model", "method", "bits", "calib", "iterations", "eval")
    )
    other_bits = history.estimate(config("mse", 8, calib=32))
    assert other_bits is not None
    assert (other_bits.seconds, other_bits.runs) == (2.0, 3)
    other_size = history.estimate(config("mse", 4, calib=128))
    assert other_size is not None
    assert (other_size.seconds, other_size.runs) == (5.5, 4)
    other_method = history.estimate(config("erq", 4))
    assert other_method is not None
    assert other_method.runs == 5
    assert history.estimate(config("mse", 4, model__name="swin")) is None


@pytest.mark.parametrize(
    "other", [{"model__kwargs": {"embed_dim": 96}}, {"model__input_size": [800, 1216]}, {"model__short_side": 800}]
)
def test_another_shape_of_one_name_says_nothing(other: dict[str, Any]) -> None:
    """Detectors of all sizes are called mask_rcnn."""
    history = History([Past(facts(config("mse", model__kwargs={"embed_dim": 32})), 10.0, 100)])
    assert history.estimate(config("mse", **{"model__kwargs": {"embed_dim": 32}} | other)) is None


def test_what_scoring_takes_grows_with_the_images() -> None:
    """A run on fifty images says what five thousand cost: 10 s, and 40 s for each fifty."""
    history = History([Past(facts(config("mse", data__eval_limit=50)), 50.0, 100, 40.0, 50)])
    for images, seconds in ((5000, 4010.0), (50, 50.0), (None, 50.0)):
        cost = history.estimate(config("mse"), images)
        assert cost is not None
        assert (cost.seconds, cost.alike) == (seconds, ("model", "method"))
    same = history.estimate(config("mse", data__eval_limit=50), 50)
    assert same is not None
    assert same.seconds == 50.0


def test_iterations_are_part_of_the_cost() -> None:
    history = History([Past(facts(config("ias_vit", 4, method__iterations=1000)), 600.0, 1)])
    cost = history.estimate(config("ias_vit", 4, method__iterations=10))
    assert cost is not None
    assert "iterations" not in cost.alike


def test_what_learning_takes_grows_with_the_iterations(tmp_path: Path) -> None:
    """A pilot of five iterations says what a thousand cost: 2 s, and 0.2 s for each iteration of both steps."""
    store, steps = Store(tmp_path / "runs"), {"a": {"do": "reconstruct"}, "b": {"do": "reconstruct", "iterations": 40}}
    stages = {"steps.a": 1.5, "iterations.a": 0.5, "steps.b": 0.7, "iterations.b": 0.5}
    pilot = config("ias_vit", 4, method__iterations=5, method__steps=steps)
    finish(store, pilot, correct(3), timings=Timings(total=3.0, stages=stages))
    for iterations, seconds in ((1000, 202.0), (5, 3.0), (None, 6.5)):
        # Without a number, b has its own 40; a's default is not known.
        cost = History.of(store).estimate(config("ias_vit", 4, method__iterations=iterations, method__steps=steps))
        assert cost is not None
        assert cost.seconds == pytest.approx(seconds)


def test_a_method_that_only_calibrates_says_nothing_of_one_that_reconstructs() -> None:
    ranges, learns = {"ranges": {"do": "calibrate"}}, {"stage": {"do": "reconstruct"}}
    off = {"stage": {"do": "reconstruct", "enabled": False}}
    known = [Past(facts(config("minmax", method__steps=ranges)), 0.3, 1), Past(facts(config("fp32")), 0.1, 1)]
    assert History(known).estimate(config("aocq", method__steps=ranges | learns)) is None
    for steps in (ranges, ranges | off):
        cost = History(known).estimate(config("aocq", method__steps=steps))
        assert cost is not None
        assert (cost.seconds, cost.alike) == (0.3, ("model", "steps"))
    # Nor does the same method with that step switched off.
    known.append(Past(facts(config("aocq", method__steps=ranges | learns)), 90.0, 1))
    cost = History(known).estimate(config("aocq", method__steps=ranges | off))
    assert cost is not None
    assert cost.seconds == 0.3


def test_the_store_is_the_history_and_damage_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    stages = {"data": 1.0, "evaluate": 3.0, "full precision": 2.0}
    finish(store, config("mse", 4), correct(3), timings=Timings(total=7.0, stages=stages))
    broken = finish(store, config("mse", 8), correct(3))
    store.run(broken).result_path.write_text("{")
    cost = History.of(store).estimate(config("mse", 4))
    assert cost is not None
    assert (cost.seconds, cost.runs) == (7.0, 1)
    more = History.of(store).estimate(config("mse", 4, data__eval_limit=7), 2 * correct(3).size)
    assert more is not None
    assert more.seconds == 12.0
    assert History.of(Store(tmp_path / "none")).estimate(config()) is None


def test_runs_without_an_estimate_are_taken_as_the_mean() -> None:
    some = total([Estimate(1800.0, 5, 1, ()), Estimate(1800.0, 7, 1, ()), None, None])
    assert (some.unknown, some.memory_bytes, some.hours()) == (2, 7, 2.0)
    assert math.isnan(total([None]).hours())


def test_a_dry_run_says_what_the_rest_costs(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "-m", "tracker=none", "method=minmax,mse"]
    assert main([*words, "bits=w8a8", "--dry-run"]) == 0
    assert "cost of the 2 runs to do: unknown" in capsys.readouterr().out
    assert main([*words, "bits=w8a8"]) == 0
    capsys.readouterr()
    assert main([*words, "bits=w8a8,w4a4", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.count("about 0.5 s") == 2
    assert "cost of the 2 runs to do: about 1 s of one device, largest run 0.00 GB" in out
    assert "inline: this process, one run after another" in out
    assert main([*words, "bits=w8a8", "--dry-run"]) == 0
    assert "nothing left to compute" in capsys.readouterr().out


def test_a_dry_run_says_what_is_started_and_what_it_occupies(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve runs of half a second, by one finished before: local slots that share two GPUs, and jobs of SLURM."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("PATH", "")  # no SLURM here: how many arrays it takes is left open
    words = ["run", "-m", "tracker=none", "bits=w8a8,w6a6,w4a4,w3a3", "method=minmax,mse,percentile"]
    assert main(["run", "-m", "tracker=none", "bits=w5a5"]) == 0
    capsys.readouterr()

    def planned(*more: str) -> tuple[dict[str, Any], str]:
        assert main([*words, *more, "--dry-run", "--json"]) == 0
        todo: dict[str, Any] = json.loads(capsys.readouterr().out)["todo"]
        assert main([*words, *more, "--dry-run"]) == 0
        return todo, capsys.readouterr().out

    todo, out = planned("launcher=local", "launcher.options.slots=4", "launcher.options.runs_per_process=2")
    assert (todo["allocations"], todo["parallel"], todo["runs"], todo["without_estimate"]) == (6, 4, 12, 0)
    assert "local: 6 processes, 4 slots, 0.5 GPU each" in out
    assert "about 6 s of one device, 0.00083 GPU-hours, 2 s on the clock" in out
    assert todo["gpu_hours"] == pytest.approx(3 / 3600)
    jobs = ["launcher=slurm", "launcher.options.runs_per_job=5", "launcher.options.gpus=2"]
    todo, out = planned(*jobs, "launcher.options.max_parallel=2")
    assert (todo["allocations"], todo["parallel"]) == (3, 2)
    assert todo["gpu_hours"] == pytest.approx(12 / 3600)
    assert "slurm: 3 jobs, at most 2 at a time, 2 GPUs each" in out
