"""`vitq reproduce` from its words to the table: full precision first, nothing cut, the same when it is typed again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fake_engine import FakeEngine
from vitq.cli.main import main
from vitq.config import RunConfig
from vitq.progress import Progress
from vitq.report.reproduction import HEAD
from vitq.store import RunDir, Store
from vitq.store.metrics import DetectionMetrics
from vitq.store.reproductions import read_reproduction
from vitq.store.result import Result

IMAGES = 650
RIGHT = {"fp32": 512, "repq_vit": 410}
WORDS = ["reproduce", "repq_vit", "--model", "deit_tiny", "data.root=x", "tracker=none", "model.crop_pct=0.98678"]


@dataclass
class ScoringEngine(FakeEngine):
    """Has the first images right, so many as RIGHT says."""

    def execute(self, run_dir: RunDir, progress: Progress, tracker: Any, group: str | None = None) -> Result:
        """See Engine."""
        config, _ = RunConfig.parse(run_dir.read_config())
        assert config is not None
        correct = np.arange(IMAGES) < RIGHT[config.method.name]
        run_dir.write_predictions({"correct": correct, "label": np.zeros(IMAGES, dtype=np.int64)})
        return super().execute(run_dir, progress, tracker, group)


@pytest.fixture
def scoring(monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> ScoringEngine:
    one = ScoringEngine()
    one.install(monkeypatch)
    return one


def test_full_precision_is_said_before_any_method_starts(
    scoring: ScoringEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(WORDS) == 0
    lines = capsys.readouterr().out.splitlines()

    def first(*words: str) -> int:
        return next(n for n, line in enumerate(lines) if all(word in line for word in words))

    full = "deit_tiny: full precision 78.77 % [75.46, 81.74] on 650 images, published 72.21 %: above"
    assert first("the paper's crop is 0.875, ours 0.98678") < first(full) < first("deit_tiny repq_vit", "started")
    head = first(*HEAD)
    rows = [line.split() for line in lines[head + 1 : head + 3]]
    assert [row[:3] for row in rows] == [["deit_tiny", "W6A6", "15.69"], ["deit_tiny", "W4A4", "15.69"]]
    assert [row[5:] for row in rows] == [
        ["1.45", "below", "63.08", "70.76", "1", "0"], ["14.78", "inside", "63.08", "57.43", "1", "0"]
    ]  # fmt: skip
    assert (Store("runs").sweep_folder("reproduce_repq_vit") / "reproduction.md").is_file()


def test_typed_again_it_computes_nothing_and_says_the_same(
    scoring: ScoringEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for _ in range(2):
        assert main([*WORDS, "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    assert len(scoring.executed) == 3
    assert [(row["bits"], row["drop"]["verdict"]) for row in said[0]["figures"]] == [
        ("W6A6", "below"),
        ("W4A4", "inside"),
    ]


def test_a_dry_run_starts_nothing(scoring: ScoringEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "the paper's crop is 0.875, ours 0.98678" in out
    assert scoring.executed == []
    assert not Store("runs").sweeps()


class DetectingEngine(FakeEngine):
    """Finds what makes 46.0/41.6 in full precision, and 6.0/5.6 points less quantized."""

    def execute(self, run_dir: RunDir, progress: Progress, tracker: Any, group: str | None = None) -> Result:
        """See Engine."""
        config, _ = RunConfig.parse(run_dir.read_config())
        assert config is not None
        quantized = config.method.quantizes
        box, mask = (40.0, 36.0) if quantized else (46.0, 41.6)
        required = [name for name, field in DetectionMetrics.model_fields.items() if field.is_required()]
        figures: dict[str, Any] = dict.fromkeys(required, 0.0) | {"ap_box": box, "ap_mask": mask, "n_eval": 40}
        own = np.linspace(20, 60, 40) - 5.6 * quantized * (np.arange(40) % 3)
        run_dir.write_predictions({"id": np.arange(40), "image_ap_box": own, "image_ap_mask": own})
        result = super().execute(run_dir, progress, tracker, group)
        result = result.model_copy(update={"metrics": DetectionMetrics(**figures)})
        run_dir.write_result(result)
        return result


def test_detectors(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    models = ("mask_rcnn_swin_tiny", "cascade_mask_rcnn_swin_small")
    for model in models:
        (tmp_path / f"{model}_patch4_window7.pth").write_bytes(b"")
    one = DetectingEngine()
    one.install(monkeypatch)
    words = ["reproduce", "repq_vit", *(w for m in models for w in ("--model", m)), "--bits", "W4A4"]
    words += ["--checkpoints", str(tmp_path), "data.root=x", "tracker=none"]
    assert main(words) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    full = "mask_rcnn_swin_tiny: full precision AP box/mask 46.00/41.60 on 40 images, published 46.0/41.6: the same"
    started = next(n for n, line in enumerate(lines) if "mask_rcnn_swin_tiny repq_vit" in line and "started" in line)
    assert lines.index(full) < started
    assert "40 images are scored, the paper's 5,000" in out
    store = Store("runs")
    page = (store.sweep_folder("reproduce_repq_vit_detection") / "reproduction.md").read_text()
    assert "| mask_rcnn_swin_tiny | W4A4 | 6.00/5.60 | 9.9/5.6 | above/same | 40.00/36.00 | 36.1/36.0 |" in page

    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(one.executed) == 4, "nothing is computed twice"
    assert [(row["model"], row["box"]["verdict"], row["mask"]["verdict"]) for row in said["full_precision"]] == [
        ("mask_rcnn_swin_tiny", "same", "same"),
        ("cascade_mask_rcnn_swin_small", "below", "below"),
    ]
    row = said["figures"][0]
    assert (row["ap_box"], row["ap_mask"], row["seeds"]) == (36.1, 36.0, 1)
    assert (row["box"]["drop"]["verdict"], row["mask"]["drop"]["verdict"]) == ("above", "same")
    assert row["own"]["low"] < row["own"]["loss"] < row["own"]["high"]
    record = read_reproduction(store, "reproduce_repq_vit_detection")
    assert record is not None
    assert [target.model for target in record.detectors] == list(models)
