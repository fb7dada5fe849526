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


DETECTORS = (
    "mask_rcnn_swin_tiny",
    "mask_rcnn_swin_small",
    "cascade_mask_rcnn_swin_tiny",
    "cascade_mask_rcnn_swin_small",
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with files as they are released."""
    for model in DETECTORS:
        (tmp_path / f"{model}_patch4_window7.pth").write_bytes(b"")
    return tmp_path


def test_detectors_of_a_paper(engine: FakeEngine, weights: Path) -> None:
    plan, record = made("repq_vit", task="detection", checkpoints=str(weights))
    assert plan.name == record.name == "reproduce_repq_vit_detection"
    assert record.targets == []
    assert {(t.model, t.bits) for t in record.detectors} == {(m, b) for m in DETECTORS for b in ("W4A4", "W6A6")}
    first = next(t for t in record.detectors if (t.model, t.bits) == ("mask_rcnn_swin_tiny", "W4A4"))
    assert (first.ap_box, first.ap_mask, first.full_precision_box, first.full_precision_mask) == (
        36.1,
        36.0,
        46.0,
        41.6,
    )
    assert [run.config.method.name for run in plan.runs] == ["fp32"] * 4 + ["repq_vit"] * 8
    assert {run.config.task for run in plan.runs} == {"segmentation"}
    assert {run.config.data.name for run in plan.runs} == {"coco"}
    assert record.references == {run.signature for run in plan.runs[:4]}
    for run in plan.runs[4:]:
        assert run.config.calib.ids == (397133,)
        assert (run.config.calib.batch_size, run.config.bits.image, run.config.data.allow_overlap) == (1, 8, True)
    files = {str(run.config.model.checkpoint) for run in plan.runs}
    assert files == {str(weights / f"{model}_patch4_window7.pth") for model in DETECTORS}
    assert record.unlike == [
        f"{t.model}: weights from {weights / t.model}_patch4_window7.pth, taken for the paper's"
        for t in record.detectors[:4]
    ]


@pytest.mark.parametrize("asked", [{"models": ["mask_rcnn_swin_tiny"]}, {"table": "coco"}, {"task": "detection"}])
def test_what_asks_for_detectors(engine: FakeEngine, weights: Path, asked: dict[str, Any]) -> None:
    plan, record = made("ias_vit", "calib.size=16", checkpoints=str(weights), **asked)
    assert {t.model for t in record.detectors} == set(asked.get("models", DETECTORS))
    assert plan.runs[-1].config.calib.size == 16
    assert record.given == ["calib.size=16 (the paper: 1024)"]
    assert record.unknown is not None


def test_without_a_choice_classifiers_are_meant(engine: FakeEngine) -> None:
    # Signatures of this sweep before it knew detectors.
    signed = ["e385664058a463f4", "21c8dfe56bfa3455", "542cb787197c7366"]
    plan, record = made("repq_vit", models=["deit_tiny"])
    assert [run.signature for run in plan.runs] == signed
    plan, record = made("repq_vit")
    assert (record.name, record.detectors) == ("reproduce_repq_vit", [])
    assert {run.config.task for run in plan.runs} == {"classification"}
    assert {*signed} < {run.signature for run in plan.runs}


def test_one_file_of_weights_is_for_one_model(engine: FakeEngine, weights: Path) -> None:
    file = weights / "mask_rcnn_swin_tiny_patch4_window7.pth"
    word = f"model.checkpoint={file}"
    plan, record = made("ias_vit", word, models=["mask_rcnn_swin_tiny"])
    assert {run.config.model.checkpoint for run in plan.runs} == {str(file)}
    assert record.given == [word]
    with refuses(VitqError, "model.checkpoint", str(file)):
        made("ias_vit", word, task="detection")
    with refuses(VitqError, "model.checkpoint", str(file)):
        made("ias_vit", word, models=["mask_rcnn_swin_tiny"], checkpoints=str(weights))


def test_weights_that_are_not_there(engine: FakeEngine, weights: Path) -> None:
    with refuses(VitqError, "model.checkpoint"):
        made("repq_vit", task="detection")
    for model in DETECTORS[:2]:
        (weights / f"{model}_patch4_window7.pth").unlink()
    with pytest.raises(ConfigError) as error:
        made("repq_vit", task="detection", checkpoints=str(weights))
    assert [problem.key for problem in error.value.problems] == ["--checkpoints"] * 2


@pytest.mark.parametrize(
    ("paper", "asked", "key", "value"),
    [
        ("adalog", {"task": "detection"}, "--task", "detection"),
        ("aocq", {"task": "detection"}, "paper", "aocq"),
        ("repq_vit", {"models": ["deit_tiny", "mask_rcnn_swin_tiny"]}, "--model", ["deit_tiny", "mask_rcnn_swin_tiny"]),
        ("repq_vit", {"models": ["mask_rcnn_digits"]}, "--model", "mask_rcnn_digits"),
        ("repq_vit", {"task": "detection", "public_code": True}, "--public-code", True),
        ("repq_vit", {"checkpoints": "weights"}, "--checkpoints", "weights"),
    ],
)
def test_what_no_paper_has_of_detectors(
    engine: FakeEngine, paper: str, asked: dict[str, Any], key: str, value: object
) -> None:
    with refuses(VitqError, key, value):
        made(paper, **asked)


@pytest.mark.parametrize(
    ("paper", "method"), [(paper, s.method) for paper, one in reproductions().items() for s in one.detection]
)
def test_every_protocol_of_detectors_is_valid(engine: FakeEngine, weights: Path, paper: str, method: str) -> None:
    setting = reproductions()[paper].setting(method, "detection")
    assert setting.deviations
    cells = figures_of(paper, setting, Figures.load(), "detection")
    if not cells:
        assert setting.unknown
        return
    plan, record = made(paper, method=method, models=[cells[0].model], task="detection", checkpoints=str(weights))
    assert {(t.model, t.bits) for t in record.detectors} == {
        (c.model, c.bits) for c in cells if c.model == cells[0].model
    }
    assert [problem for run in plan.runs for problem in recipe_checks.problems(run.config)] == []


def test_the_papers_of_all_methods_on_detectors() -> None:
    """A method that vitq has and whose own authors' figures of detectors are known has a protocol for them."""
    # Figures of ptq4vit stand in another paper's table, whoever obtained them; aocq has an abstract alone.
    printed = {cell.method for cell in Figures.load().cells if cell.metric == "ap_box"} & {*reproductions()}
    known = {paper for paper, one in reproductions().items() if one.detection}
    assert printed - {"ptq4vit"} == known - {"aocq"}


def test_the_papers_of_all_methods_with_figures() -> None:
    """A method that vitq has and whose authors' figures are known has a protocol."""
    figures, files = Figures.load(), ConfigPath.of().files
    with_figures = {
        cell.method
        for cell in figures.cells
        if cell.method in files("method") and cell.model in files("model") and cell.metric == "top1"
    }
    assert with_figures == {s.method for one in reproductions().values() for s in one.settings} - {"scale_predictor"}
