"""One run from its stored config to its record: complete, repeatable, never half-visible."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.fake_engine import FakeEngine, result_of
from tests.job.planner import Planner
from vitq import data
from vitq.config import RunConfig
from vitq.job import measure, provenance
from vitq.job.run_log import RunLog
from vitq.job.worker import main
from vitq.planning import compose
from vitq.planning.planner import make
from vitq.store.status import Status


def test_a_run_leaves_a_complete_record(planner: Planner) -> None:
    run_dir = planner.plan()
    result = planner.execute(run_dir)
    assert run_dir.is_done()
    assert run_dir.read_result() == result
    assert result.signature == run_dir.signature
    config, problems = RunConfig.parse(result.config)
    assert config is not None, problems
    assert result.metrics.n_eval == data.describe(config).eval_images
    assert result.metrics.drop == pytest.approx(result.metrics.fp_top1 - result.metrics.top1)
    assert 0 < result.metrics.agreement < 100
    assert result.metrics.kl > 0
    assert result.size.mean_weight_bits == 4
    assert 4 < result.size.mean_activation_bits < 32
    assert result.size.quantized_bytes < result.size.fp_bytes
    assert {"steps.activations", "steps.reparameterize", "steps.weights", "evaluate"} <= set(result.timings.stages)
    assert result.timings.total > 0
    assert result.memory.peak_rss_bytes > 1e8
    sites = run_dir.read_sites()
    assert {"blocks.0.attn.scores.query", "blocks.1.mlp.fc2.weight"} <= set(sites.site)
    predictions = run_dir.read_predictions()
    assert 100 * predictions["correct"].mean() == pytest.approx(result.metrics.top1)
    status = run_dir.read_status()
    assert status is not None
    assert (status.state, status.attempt) == ("done", 1)
    assert {"calibrate", "reparameterize", "evaluate"} <= set(run_dir.log_path.read_text().split())


def test_seconds_of_iterations_are_apart_from_what_prepares_them(planner: Planner) -> None:
    """Budgets need them: preparations take as long however many iterations follow."""
    ranges, learn = {"do": "calibrate"}, {"do": "reconstruct", "iterations": 2, "batch_size": 4, "compile": "off"}
    method = {
        "name": "learns",
        "kinds": {"default": {"quantizer": "uniform"}},
        "steps": {"ranges": ranges, "learn": learn},
    }
    stages = planner.execute(planner.plan(method=method)).timings.stages
    assert 0 < stages["iterations.learn"] < stages["steps.learn"]
    assert {name for name in stages if name.startswith("iterations.")} == {"iterations.learn"}


def test_what_a_step_warns_of_stands_in_the_result(planner: Planner) -> None:
    """Learning that did harm is taken back: the result is that of the steps before it, and says so."""
    learn = {"do": "distill", "iterations": 2, "batch_size": 2, "hold_out": 0.5, "lr_scales": 30.0}
    steps = {"ranges": {"do": "calibrate"}, "learn": learn}
    method = {"name": "learns", "kinds": {"default": {"quantizer": "uniform"}}, "steps": steps}
    run_dir = planner.plan(method=method, calib={"size": 8, "batch_size": 8})
    warnings = planner.execute(run_dir).warnings
    assert [text.partition(":")[0] for text in warnings] == ["learn"]
    status = run_dir.read_status()
    assert status is not None
    assert status.warnings == warnings


def test_a_run_says_when_the_code_is_not_that_of_its_plan(planner: Planner) -> None:
    run_dir = planner.plan()
    run_dir.write_status(Status(state="planned", code={**provenance.code(), "commit": "1" * 40}))
    result = planner.execute(run_dir)
    assert result.provenance.code["planned_commit"] == "1" * 40
    assert f"the code has changed since this run was planned: commit {'1' * 40} -> " in run_dir.read_log()
    same = planner.plan("minmax")
    same.write_status(Status(state="planned", code=provenance.code()))
    assert set(planner.execute(same).provenance.code) == {"version", "commit", "dirty", "source"}
    assert "the code has changed" not in same.read_log()


@pytest.mark.parametrize(
    ("published", "measured", "images", "warned"),
    [
        (None, 50.0, 50000, False),
        (72.21, 72.0, 50000, False),  # half a point
        (72.21, 71.0, 50000, True),
        (72.21, 68.0, 650, False),  # three standard errors
        (72.21, 60.0, 650, True),
        (100.0, 99.0, 50000, True),
    ],
)
def test_full_precision_far_from_the_published_one_is_a_warning(
    planner: Planner, published: float | None, measured: float, images: int, warned: bool
) -> None:
    config, _ = RunConfig.parse(planner.plan().read_config())
    assert config is not None
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, fp_top1=published))
    metrics = result_of(config, "0" * 16).metrics.model_copy(update={"fp_top1": measured, "n_eval": images})
    assert (measure.unlike_published(config, metrics) is not None) == warned


def test_warnings_of_the_plan_and_of_the_run_are_in_the_result(planner: Planner) -> None:
    run_dir = planner.plan("minmax")
    run_dir.write_status(Status(state="planned", code=provenance.code(), warnings=["2 files are left out"]))
    assert planner.execute(run_dir).warnings == ["2 files are left out"]
    assert "warnings" in json.loads(run_dir.result_path.read_text())
    plain = planner.plan("mse")
    planner.execute(plain)
    assert "warnings" not in json.loads(plain.result_path.read_text())


def test_planning_a_waiting_run_again_plans_it_with_the_code_of_today(engine: FakeEngine) -> None:
    """And one that has begun keeps what it was begun with."""
    file, roots = compose.root_config()
    made = make(compose.load(file, roots, ["tracker=none"], multirun=True), name="again")
    run_dir = made.store.run(made.runs[0].signature)
    old = provenance.code() | {"commit": "1" * 40}
    for state, expected in {"planned": provenance.code(), "failed": old}.items():
        run_dir.write_status(Status(state=state, code=old))
        made.commit()
        status = run_dir.read_status()
        assert status is not None
        assert status.code == expected


def test_tables_that_a_step_leaves_are_stored(planner: Planner) -> None:
    """Greedy's path ends where the site table and the result say that the bits are."""
    run_dir = planner.plan("mixed_precision")
    result = planner.execute(run_dir)
    end, sites = run_dir.read_artifact("allocation_path").iloc[-1], run_dir.read_sites()
    assert end.mean_weight_bits == pytest.approx(result.size.mean_weight_bits)
    assert end.mean_weight_bits <= 4
    assert end.size_mb == pytest.approx(result.size.quantized_bytes / 1e6)
    assert sites[sites.kind == "weight"].bits.nunique() > 1


def test_two_runs_of_one_signature_are_bit_identical(planner: Planner, tmp_path: Path) -> None:
    first = planner.plan()
    planner.execute(first)
    (tmp_path / "elsewhere").mkdir()
    other = Planner(tmp_path / "elsewhere")
    second = other.plan()
    assert second.signature == first.signature, "paths are no part of the identity"
    other.execute(second)
    a, b = first.read_result(), second.read_result()
    assert a is not None
    assert b is not None
    assert a.metrics == b.metrics
    assert a.size == b.size
    pd.testing.assert_frame_equal(first.read_sites(), second.read_sites(), check_exact=True)
    assert first.predictions_path.read_bytes() == second.predictions_path.read_bytes()


def test_full_precision_is_one_run_whatever_the_bits(planner: Planner) -> None:
    plans = [planner.plan("fp32", bits={"weight": w}, seed=s, calib={"size": n}) for w, s, n in ((4, 0, 8), (8, 1, 16))]
    assert plans[0].signature == plans[1].signature
    result = planner.execute(plans[0])
    assert (result.metrics.drop, result.metrics.agreement, result.metrics.kl) == (0, 100, 0)
    assert result.size.mean_weight_bits == result.size.mean_activation_bits == 32
    assert result.size.quantized_bytes == result.size.fp_bytes


def test_the_reference_is_computed_once(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitq.engine import evaluate, fp_outputs

    stages: list[str] = []
    original = evaluate.outputs

    def counted(*args: Any) -> Any:
        stages.append(args[-1])
        return original(*args)

    monkeypatch.setattr(fp_outputs, "outputs", counted)
    planner.execute(planner.plan("minmax"))
    planner.execute(planner.plan("mse"))
    assert stages == ["full precision"]
    for damaged in (planner.cache / "logits").iterdir():
        damaged.write_bytes(b"damaged")
    planner.execute(planner.plan("percentile"))
    assert stages == ["full precision"] * 2, "a damaged cache entry is computed anew"


def test_training_is_no_work_of_the_run(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whichever run comes first, or waits for it, has a minute more in tables."""
    happened: list[str] = []
    begin = RunLog.begin

    def trained(*_: object) -> Path:
        happened.append("trained")
        return Path("weights")

    def begun(run_log: RunLog) -> None:
        happened.append("clock")
        begin(run_log)

    monkeypatch.setattr(measure, "trained_here", trained)
    monkeypatch.setattr(RunLog, "begin", begun)
    planner.execute(planner.plan("minmax"))
    assert happened == ["clock", "trained", "clock"]


def test_the_module_runs_signatures_and_skips_finished_ones(
    planner: Planner, capsys: pytest.CaptureFixture[str]
) -> None:
    signatures = [planner.plan(m).signature for m in ("fp32", "minmax")]
    words = ["--runs-dir", str(planner.store.root), *signatures]
    command = [sys.executable, "-m", "vitq.job", *words]
    first = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stderr
    assert all(planner.store.run(s).is_done() for s in signatures)
    assert main(words) == 0
    assert capsys.readouterr().err.count("is finished; skipped") == 2
