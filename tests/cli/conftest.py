"""A small sweep that several tests of commands start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine
from vitq.config import RunConfig

SWEEP = """\
defaults: [config, override /tracker: none, _self_]
sweep: {name: small, baseline: minmax, cost: nothing, description: a test}
hydra: {mode: MULTIRUN, sweeper: {params: {method: 'fp32,minmax,mse', bits: 'w8a8,w4a4'}}}
"""


@pytest.fixture
def small(engine: FakeEngine, tmp_path: Path) -> str:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "small.yaml").write_text(SWEEP)
    return "small"


def fail_at_4_bits(config: RunConfig) -> None:
    if config.bits.weight == 4:
        raise ValueError("no such thing")
