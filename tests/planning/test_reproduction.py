"""The sweep of a paper's protocol: its figures, its settings, what is not as in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.errors import refuses
from tests.fake_engine import FakeEngine
from vitq.config import RunConfig
from vitq.config.search_path import ConfigPath
from vitq.engine import recipe_checks
from vitq.errors import ConfigError, VitqError
from vitq.planning.plan import Plan
from vitq.planning.reproduction import PaperRequest, make
from vitq.published import Figures
from vitq.published.reproduction import figures_of, reproductions
from vitq.store.reproductions import ReproductionRecord

WORDS = ("data.root=images", "tracker=none")


@pytest.fixture(autouse=True)
def _many_images(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration split as large as papers want."""
    monkeypatch.setattr(engine, "data_problems", lambda config: [])


def made(paper: str, *overrides: str, **asked: Any) -> tuple[Plan, ReproductionRecord]:
    return make(PaperRequest(paper, overrides=(*WORDS, *overrides), **asked))


def configs(plan: Plan, record: ReproductionRecord) -> dict[tuple[str, str], RunConfig]:
    known = {run.signature: run.config for run in plan.runs}
    return {(target.model, target.bits): known[target.runs[0]] for target in record.targets}


def test_the_protocol_of_a_paper(engine: FakeEngine) -> None:
    plan, record = made("ias_vit", models=["deit_tiny", "vit_base"])
    assert plan.name == record.name == "reproduce_ias_vit"
    assert [(t.model, t.bits, t.top1, t.full_precision) for t in record.targets if t.model == "deit_tiny"] == [
        ("deit_tiny", "W6A6", 70.85, 72.21),
        ("deit_tiny", "W4A4", 65.21, 72.21),
        ("deit_tiny", "W3A3", 41.52, 72.21),
    ]
    # Full precision is the first of all runs, one for each model.
    assert [run.config.method.name for run in plan.runs] == ["fp32"] * 2 + ["ias_vit"] * 6
    assert {target.reference for target in record.targets} == {run.signature for run in plan.runs[:2]}
    by_cell = configs(plan, record)
    assert {bits: by_cell["vit_base", bits].method.iterations for bits in ("W6A6", "W4A4", "W3A3")} == {
        "W6A6": 200,
        "W4A4": 1000,
        "W3A3": 1000,
    }
    assert {config.calib.size for config in by_cell.values()} == {1024}
    assert by_cell["vit_base", "W3A3"].bits.label == "W3A3"
    assert (record.given, record.unlike, record.unknown) == ([], [], None)
    assert plan.sweep is not None
    assert plan.sweep.name == "reproduce_ias_vit"


def test_what_is_given_stands_beside_the_protocol(engine: FakeEngine, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"")
    words = ("calib.size=512", "method.iterations=50", "seed=0,1", f"model.checkpoint={weights}", "model.crop_pct=1.0")
    plan, record = made("ias_vit", *words, models=["deit_tiny"], bits=["w3a3"])
    (target,) = record.targets
    assert len(target.runs) == 2
    assert len(plan.runs) == 3, "full precision has no seed"
    config = configs(plan, record)["deit_tiny", "W3A3"]
    assert (config.calib.size, config.method.iterations) == (512, 50)
    assert record.given == [
        "calib.size=512 (the paper: 1024)",
        "method.iterations=50 (the paper: 1000)",
        "seed=0,1",
        f"model.checkpoint={weights}",
        "model.crop_pct=1.0",
    ]
    assert record.unlike[0] == "deit_tiny: the paper's crop is 0.875, ours 1.0"
    assert len(record.unlike) == 2, "crop, and weights from a file"


def test_another_checkpoint_is_said(engine: FakeEngine) -> None:
    _, record = made("fq_vit", "model.name=swin_base_patch4_window7_224.ms_in22k_ft_in1k", models=["swin_base"])
    assert len(record.unlike) == 1
    _, record = made("fq_vit", models=["swin_base"])
    assert record.unlike == []
    assert record.targets[0].full_precision == 83.60


def test_public_code(engine: FakeEngine) -> None:
    plain, public = (made("repq_vit", models=["deit_tiny"], bits=["W4A4"], public_code=p) for p in (False, True))
    assert "levels" not in configs(*plain)["deit_tiny", "W4A4"].method.kinds["probs"].options
    assert configs(*public)["deit_tiny", "W4A4"].method.kinds["probs"].options["levels"] == "public"


def test_another_method_of_its_tables(engine: FakeEngine) -> None:
    _, record = made("ias_vit", method="qdrop")
    assert record.name == "reproduce_ias_vit_qdrop"
    assert {target.bits for target in record.targets} == {"W3A3", "W4A4"}, "those that I&S-ViT's authors ran"


@pytest.mark.parametrize(
    ("paper", "asked", "key", "value"),
    [
        ("nobody", {}, "paper", "nobody"),
        ("scale_predictor", {}, "paper", "scale_predictor"),
        ("repq_vit", {"method": "qdrop"}, "--method", "qdrop"),
        ("repq_vit", {"models": ["deit_tinny"]}, "--model", "deit_tinny"),
        ("repq_vit", {"bits": ["w2a2"]}, "--bits", "W2A2"),
        ("ias_vit", {"table": "7"}, "--table", "7"),
    ],
)
def test_what_no_paper_has(engine: FakeEngine, paper: str, asked: dict[str, Any], key: str, value: str) -> None:
    with refuses(VitqError, key, value):
        made(paper, **asked)


def test_all_problems_of_all_runs(engine: FakeEngine) -> None:
    with refuses(ConfigError, "bits.image", 9):
        made("repq_vit", "bits.image=9")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("paper", "method"), [(paper, s.method) for paper, one in reproductions().items() for s in one.settings]
)
def test_every_protocol_is_valid(engine: FakeEngine, paper: str, method: str) -> None:
    """Every setting of every paper, as it is and as public code is, against registries and recipes."""
    setting = reproductions()[paper].setting(method)
    assert setting.deviations
    if not figures_of(paper, setting, Figures.load()):
        assert setting.unknown
        return
    for public_code in (False, True) if setting.public_code else (False,):
        models = {cell.model: None for cell in figures_of(paper, setting, Figures.load())}
        chosen = [next(m for m in models if m in ConfigPath.of().files("model")), *setting.models]
        plan, record = made(paper, method=method, models=chosen, public_code=public_code)
        assert {t.model for t in record.targets} == {*chosen}
        assert [problem for run in plan.runs for problem in recipe_checks.problems(run.config)] == []


def test_the_papers_of_all_methods_with_figures() -> None:
    """A method that vitq has and whose authors' figures are known has a protocol."""
    figures, files = Figures.load(), ConfigPath.of().files
    with_figures = {
        cell.method
        for cell in figures.cells
        if cell.method in files("method") and cell.model in files("model") and cell.metric == "top1"
    }
    assert with_figures == {s.method for one in reproductions().values() for s in one.settings} - {"scale_predictor"}
