"""Every config and every sweep that vitq ships can be planned, and says what it is."""

from __future__ import annotations

import pytest

from tests.fake_engine import FakeEngine
from vitq.config import RunConfig
from vitq.config.search_path import ConfigPath, shipped
from vitq.planning import compose, planner


def yaml_files() -> list[tuple[str, str]]:
    conf = shipped("conf")
    return [(path.parent.name, path.stem) for path in sorted(conf.glob("*/*.yaml"))]


@pytest.mark.parametrize(("group", "option"), yaml_files())
def test_every_option_of_every_group_is_a_valid_config(group: str, option: str) -> None:
    file, roots = compose.root_config()
    (cell,) = compose.expand(compose.load(file, roots, [f"{group}={option}"]))
    assert cell.problem is None
    config, found = RunConfig.parse(cell.raw)
    assert config is not None, found
    first = (shipped("conf") / group / f"{option}.yaml").read_text().splitlines()[0]
    assert first.startswith("# "), "the first line says what it is: `vitq list` shows it"


@pytest.mark.parametrize("name", sorted(path.stem for path in shipped("sweeps").glob("*.yaml")))
def test_every_sweep_is_valid(engine: FakeEngine, name: str) -> None:
    file = shipped("sweeps") / f"{name}.yaml"
    planned = planner.make(compose.load(file, ConfigPath.of()))
    assert planned.sweep is not None
    assert (planned.name, bool(planned.sweep.description), bool(planned.sweep.cost)) == (name, True, True)
    text = file.read_text()
    assert text.startswith("#")
    assert f"vitq sweep {name}" in text
    assert "Cost: " in text
    assert "TODO" not in text, "measure it"
    assert f"{len(planned.runs)} runs" in text, "the header says how many runs there are"
