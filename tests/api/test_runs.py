"""Runs and sweeps from Python are those of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import vitq
from tests.errors import refuses
from tests.fake_engine import FakeEngine
from vitq import data
from vitq.cli import main
from vitq.config import RunConfig
from vitq.errors import ConfigError, StoreError, VitqError
from vitq.progress import Progress

pytestmark = pytest.mark.xdist_group("runs of the API")  # what it makes first is made once

WORDS = ("model=vit_digits", "method=repq_vit", "bits=w4a4", "tracker=none", "launcher=inline")


def _fail(config: RunConfig) -> None:
    raise ValueError("out of luck")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> vitq.Run:
    """A real run of the embedded ViT."""
    return vitq.run(*WORDS, f"runs_dir={tmp_path_factory.mktemp('store') / 'runs'}")


def test_a_run_has_what_the_store_has(run: vitq.Run) -> None:
    assert isinstance(run, vitq.Run)
    assert (run.state, run.reason, run.attempt) == ("done", None, 1)
    assert run.metrics is not None
    assert run.metrics.top1 is not None
    assert run.metrics.top1 > 90
    assert run.label == "vit_digits repq_vit W4A4 c32 s0"
    assert set(run.sites.columns) >= {"site", "kind", "bits", "mse"}
    assert len(run.predictions["correct"]) == run.metrics.n_eval
    assert "done" in run.log


def test_the_command_line_finds_it_computed(run: vitq.Run, capsys: pytest.CaptureFixture[str]) -> None:
    root = run.dir.path.parent
    written = run.dir.result_path.stat().st_mtime_ns
    assert main(["run", "--json", *WORDS, f"runs_dir={root}"]) == 0
    assert json.loads(capsys.readouterr().out)["signature"] == run.signature
    assert vitq.run(*WORDS, f"runs_dir={root}").signature == run.signature
    assert run.dir.result_path.stat().st_mtime_ns == written


def test_its_model_predicts_what_the_run_recorded(run: vitq.Run) -> None:
    q = vitq.store(run.dir.path.parent).find(run.signature[:6]).model()
    images = data.eval_set(run.config, Progress())
    logits = torch.cat([q(x) for x, _ in images.batches(64, "cpu")])
    assert logits.argmax(1).tolist() == run.predictions["topk_index"][:, 0].tolist()
    pd.testing.assert_frame_equal(q.sites(), run.sites, check_dtype=False)


def test_quantize_gives_the_model_of_the_run(run: vitq.Run, tmp_path: Path) -> None:
    """One engine: the model and the images of a run, handed over, become the run's model, and a file of it."""
    (calib, _), *_ = data.calibration_set(run.config, Progress()).batches(run.config.calib.size, "cpu")
    model, kwargs = run.float_model(), run.config.model.kwargs
    q = vitq.quantize(model, "repq_vit", bits="w4a4", images=calib, architecture="vit_digits", model_kwargs=kwargs)
    assert torch.equal(q(calib), run.model()(calib))
    assert torch.equal(vitq.load(q.save(tmp_path / "q.safetensors"))(calib), q(calib))


def test_load_reads_what_a_run_kept(run: vitq.Run, tmp_path: Path) -> None:
    kept = vitq.run(*WORDS, "keep_model=true", f"runs_dir={tmp_path / 'runs'}")
    assert kept.signature == run.signature
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(vitq.load(kept.dir.model_path)(x), run.model()(x))
    assert torch.equal(kept.model()(x), run.model()(x))


def test_a_run_that_fails_raises_its_recorded_reason(engine: FakeEngine) -> None:
    engine.fail = _fail
    with refuses(VitqError, key="run") as error:
        vitq.run("tracker=none")
    (stored,) = vitq.store("runs").runs()
    assert error.value.problems[0].value == stored.signature
    assert stored.reason == "ValueError: out of luck"
    assert stored.reason in error.value.problems[0]
    assert stored.metrics is None


def test_what_is_wrong_is_said_before_anything_starts(engine: FakeEngine, tmp_path: Path) -> None:
    with refuses(ConfigError, key="method", value="minmaxx", valid=["minmax"]):
        vitq.run("method=minmaxx")
    with refuses(ConfigError, key="sweep", value="demoo", valid=["demo"]):
        vitq.sweep("demoo")
    assert not (tmp_path / "runs").exists()
    assert engine.executed == []


def test_a_sweep_is_computed_once(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("model=vit_digits", "method=minmax,mse", "bits=w4a4,w8a8", "tracker=none", "launcher=inline")
    sweep = vitq.sweep("demo", *words)
    assert isinstance(sweep, vitq.Sweep)
    assert (sweep.name, [run.state for run in sweep.runs]) == ("demo", ["done"] * 4)
    assert len(sweep.table()) == 4
    assert capsys.readouterr().out == ""
    again = vitq.sweep("demo", *words)
    assert [run.signature for run in again.runs] == [run.signature for run in sweep.runs] == engine.executed
    assert main(["sweep", "demo", "--dry-run", "--json", *words]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [run["signature"] for run in plan["runs"]] == engine.executed


def test_a_sweep_has_a_name_a_report_and_an_end(engine: FakeEngine, tmp_path: Path) -> None:
    sweep = vitq.sweep("demo", "model=vit_digits", "method=minmax", "bits=w4a4", "tracker=none", name="mine")
    assert vitq.store("runs").sweeps() == ["mine"]
    assert vitq.store("runs").sweep("mine").runs[0].signature == sweep.runs[0].signature
    assert sweep.report(formats=("csv",), out=tmp_path / "out") == {"csv": tmp_path / "out" / "report.csv"}
    assert sweep.cancel() == []
    with refuses(VitqError, key="method"):
        sweep.compare("minmax", "mse")
    with refuses(StoreError, key="sweep", value="nosuch"):
        vitq.store("runs").sweep("nosuch")


def test_a_run_that_fails_stops_no_other_one(engine: FakeEngine) -> None:
    def fail(config: RunConfig) -> None:
        if config.bits.weight == 4:
            _fail(config)

    engine.fail = fail
    words = ("model=vit_digits", "method=minmax", "bits=w4a4,w8a8", "tracker=none", "launcher=inline")
    sweep = vitq.sweep("demo", *words)
    assert [run.state for run in sweep.runs] == ["failed", "done"]
    assert sweep.runs[0].reason == "ValueError: out of luck"


def test_compare_is_seen_from_the_first_method(tmp_path: Path) -> None:
    words = ("model=vit_digits", "method=minmax,repq_vit", "bits=w3a3", "tracker=none", f"runs_dir={tmp_path / 'runs'}")
    sweep = vitq.sweep("demo", *words)
    (forth,), (back,) = (
        sweep.compare(*names).to_dict("records") for names in (("repq_vit", "minmax"), ("minmax", "repq_vit"))
    )
    top1 = sweep.table().set_index("method").top1
    assert forth["difference"] == pytest.approx(top1["repq_vit"] - top1["minmax"])
    assert (back["difference"], back["low"]) == (-forth["difference"], -forth["high"])
    assert (forth["n"], forth["p"]) == (596, back["p"])


def test_progress_hears_of_the_stages(engine: FakeEngine) -> None:
    stages: list[str] = []

    class Heard(Progress):
        def stage(self, name: str, total: int | None = None) -> None:
            stages.append(name)

    vitq.run("tracker=none", progress=Heard())
    assert stages == ["steps.ranges"]


def test_lists_know_the_folders_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("# My own\nname: mine\n")
    assert vitq.list_methods(tmp_path)["mine"] == "My own"
    found: dict[str, Any] = vitq.list_methods()
    assert "mine" not in found
    assert found["repq_vit"]
    assert "vit_digits" in vitq.list_models()
