"""An engine of no weight: answers what the plan asks and stores results, without torch, images or seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from vitq.config import KINDS, ModelConfig, RunConfig
from vitq.data.facts import DataFacts
from vitq.errors import DataError, Problem, under, unknown
from vitq.planning import engine as planning_engine
from vitq.planning.engine import Engine
from vitq.progress import Progress
from vitq.store import RunDir
from vitq.store.metrics import Metrics
from vitq.store.record import utc_now
from vitq.store.result import Memory, Provenance, Result, Size, Timings
from vitq.store.status import Status


@dataclass
class FakeEngine(Engine):
    """Counts what it is asked. `fail`: called with the config of a run before it executes; may raise."""

    identified: int = 0
    described: int = 0
    newest: float = 0.0
    validated: list[RunConfig] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)
    fail: Callable[[RunConfig], None] = lambda config: None

    def identify(self, model: ModelConfig) -> ModelConfig:
        """See Engine."""
        self.identified += 1
        return replace(model, weights="a" * 64) if model.checkpoint else model

    def describe(self, config: RunConfig) -> DataFacts:
        """See Engine."""
        self.described += 1
        if config.data.root == "missing":
            raise DataError("data.root='missing' does not exist; set data.root=DIR", "data.root", "missing")
        return DataFacts(1000, 500, "f" * 64, 10, self.newest)

    def data_problems(self, config: RunConfig) -> list[Problem]:
        """See Engine."""
        size = config.calib.size
        text = f"calib.size={size} is larger than the calibration split (1000 images)"
        return [] if size <= 1000 else [Problem(text, "calib.size", size)]

    def recipe_problems(self, config: RunConfig) -> list[Problem]:
        """See Engine."""
        self.validated.append(config)
        return [
            under(f"method.kinds.{kind}", unknown("kind", kind, KINDS))
            for kind in config.method.kinds
            if kind == "prob"
        ]

    def idle_steps(self, config: RunConfig) -> list[str]:
        """See Engine."""
        return []

    def network_problems(self, config: RunConfig) -> list[Problem]:
        """See Engine."""
        return []

    def misfits(self, config: RunConfig) -> list[Problem]:
        """See Engine."""
        return []

    def warnings(self, config: RunConfig) -> list[str]:
        """See Engine."""
        return []

    def room(self, config: RunConfig) -> int | None:
        """See Engine."""
        return None if config.task == "classification" or not config.method.quantizes else 10**9 * config.calib.size

    def execute(self, run_dir: RunDir, progress: Progress, tracker: Any, group: str | None = None) -> Result:
        """See Engine."""
        config, problems = RunConfig.parse(run_dir.read_config())
        assert config is not None, problems
        self.executed.append(run_dir.signature)
        self.groups.append(group)
        for block in progress.over(range(3), "steps.ranges"):
            progress.advance(0, f"blocks.{block}")
        self.fail(config)
        result = result_of(config, run_dir.signature)
        run_dir.write_result(result)
        run_dir.write_status(Status(state="done"))
        return result

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
        """Planning and launching in this process ask this one from now on."""
        monkeypatch.setattr(planning_engine, "ENGINE", self)
        return self


def result_of(config: RunConfig, signature: str) -> Result:
    """A result whose numbers follow from the bit-width."""
    bits = config.bits.weight if isinstance(config.bits.weight, int) else 32
    top1 = 98.0 - 40.0 / bits
    return Result(
        signature=signature,
        config=config.to_dict(),
        metrics=Metrics(
            top1=top1, top5=99.0, nll=0.1, fp_top1=98.0, drop=98.0 - top1, agreement=97.0, kl=0.01, n_eval=4
        ),
        size=Size(mean_weight_bits=bits, mean_activation_bits=bits, fp_bytes=4000, quantized_bytes=125 * bits),
        timings=Timings(total=0.5, stages={"steps.ranges": 0.2}),
        memory=Memory(peak_rss_bytes=1),
        provenance=Provenance(versions={}, host={}, code={}, started_at=utc_now(), finished_at=utc_now()),
    )
