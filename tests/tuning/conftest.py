"""An engine whose KL follows from the options, and studies of it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.fake_engine import FakeEngine
from vitq.config import RunConfig
from vitq.planning import compose
from vitq.planning.display import Show
from vitq.progress import Progress
from vitq.store import RunDir
from vitq.store.result import Result
from vitq.store.studies import StudyRecord
from vitq.tuning.tune import Tuning, TuningBudget


def bowl(config: RunConfig) -> float:
    """Least, 0, at lr_rounding = 1e-2, whatever else is chosen; 1 at the recipe's own 1e-3."""
    return (math.log10(config.method.steps["learn"].get("lr_rounding", 1e-3)) + 2) ** 2


@dataclass
class TunedEngine(FakeEngine):
    """kl: of a config; a run takes two seconds by its record."""

    kl: Callable[[RunConfig], float] = bowl
    configs: list[RunConfig] = field(default_factory=list)

    def execute(self, run_dir: RunDir, progress: Progress, tracker: Any, group: str | None = None) -> Result:
        """See Engine."""
        result = super().execute(run_dir, progress, tracker, group)
        config, _ = RunConfig.parse(run_dir.read_config())
        assert config is not None
        self.configs.append(config)
        metrics = result.metrics.model_dump() | {"kl": self.kl(config)}
        plain = result.model_dump() | {"metrics": metrics, "timings": {"total": 2.0}}
        result = Result.model_validate(plain)
        run_dir.write_result(result)
        # Four images around the mean, whose errors cancel in a difference of two runs but for a part of it.
        spread = np.array([-1.0, 1.0, -0.5, 0.5]) * self.kl(config)
        run_dir.write_predictions({"kl": self.kl(config) + spread})
        return result


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TunedEngine:
    """The engine, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITQ_CACHE_DIR", str(tmp_path / "cache"))
    engine = TunedEngine()
    engine.install(monkeypatch)
    return engine


def tuning(*words: str, method: str = "qdrop", held_out: int = 50, **options: Any) -> Tuning:
    file, search_path = compose.root_config()
    primary = compose.load(file, search_path, ["tracker=none", f"method={method}", "bits=w3a3", *words])
    return Tuning.of(primary, held_out, **options)


def run(one: Tuning, trials: int | None = None, seconds: float | None = None, out: Path | None = None) -> StudyRecord:
    return one.run(
        TuningBudget(trials, seconds), "vitq tune", lambda runs: Show(Console(file=io.StringIO()), "t", runs), out
    )
