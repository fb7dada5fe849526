"""`vitq reproduce` from its words to the table: full precision first, nothing cut, the same when it is typed again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.fake_engine import FakeEngine
from vitq.cli.main import main
from vitq.config import RunConfig
from vitq.progress import Progress
from vitq.report.reproduction import HEAD
from vitq.store import RunDir, Store
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
