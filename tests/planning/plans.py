"""Plans as tests make them: of overrides, or of a sweep file."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitq.config.search_path import ConfigPath
from vitq.errors import ConfigError, Problem
from vitq.planning import compose, planner
from vitq.planning.plan import Plan


def make(*overrides: str, multirun: bool = True) -> Plan:
    file, roots = compose.root_config()
    return planner.make(compose.load(file, roots, overrides, multirun=multirun), name="test")


def problems(*overrides: str) -> list[Problem]:
    with pytest.raises(ConfigError) as error:
        make(*overrides)
    assert not Path("runs").exists()
    return error.value.problems


def sweep(folder: Path, section: str) -> Plan:
    file = folder / "mine.yaml"
    file.write_text(
        f"defaults: [config, _self_]\nsweep: {section}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: "
        "{method: 'fp32,minmax,mse', bits: 'w8a8,w3a3', calib.size: '16,32'}}}\n"
    )
    return planner.make(compose.load(file, ConfigPath.of()))
