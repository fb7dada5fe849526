"""One order of search for every command: --config-dir, VITQ_CONFIG_DIR, ./conf, then what is installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.errors import refuses
from tests.fake_engine import FakeEngine
from vitq.cli import main
from vitq.config.search_path import ConfigPath, shipped, sweep_file
from vitq.errors import ConfigError
from vitq.planning import compose, planner
from vitq.planning.plan import Plan

SWEEP = "defaults: [config, _self_]\nhydra: {sweeper: {params: {method: mse, bits: w4a4}}}\nsweep: {name: s}\n"


def option(folder: Path, bits: int, name: str = "w4a4.yaml") -> Path:
    """A folder of configs whose own `bits=w4a4` has so many bits."""
    (folder / "bits").mkdir(parents=True, exist_ok=True)
    (folder / "bits" / name).write_text(f"weight: {bits}\nactivation: {bits}\n")
    return folder


def planned(config_dir: Path | None = None, *words: str) -> Plan:
    file, folders = compose.root_config(None if config_dir is None else str(config_dir))
    return planner.make(compose.load(file, folders, ["method=mse", *(words or ["bits=w4a4"])]))


def weight(plan: Plan) -> object:
    return plan.runs[0].config.bits.weight


def test_the_most_explicit_folder_comes_first(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert weight(planned()) == 4
    here = option(tmp_path / "conf", 3)
    assert weight(planned()) == 3
    variable = [option(tmp_path / "a", 5), option(tmp_path / "b", 6)]
    monkeypatch.setenv("VITQ_CONFIG_DIR", os.pathsep.join(map(str, variable)))
    assert weight(planned()) == 5
    own = option(tmp_path / "own", 7)
    plan = planned(own)
    assert weight(plan) == 7
    assert ConfigPath.of(own).folders == (own, *variable, here, shipped("conf"))
    # Which file a name means is said where it hides another one that says something else.
    (note,) = plan.warnings
    assert str(own / "bits" / "w4a4.yaml") in note
    monkeypatch.setenv("VITQ_CONFIG_DIR", "")
    assert ConfigPath.of().folders == (here, shipped("conf"))


def test_run_sweep_and_list_agree(engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = option(tmp_path / "lab", 3)
    (tmp_path / "s.yaml").write_text(SWEEP)
    for command in (["run", "method=mse", "bits=w4a4"], ["sweep", "s.yaml"]):
        assert main([*command, "--config-dir", str(own), "tracker=none", "--dry-run"]) == 0
        assert "vit_digits mse w3a3" in capsys.readouterr().out
    assert main(["run", "--info", "bits=w4a4", "--config-dir", str(own)]) == 0
    assert f"bits=w4a4  {own / 'bits' / 'w4a4.yaml'}" in capsys.readouterr().out


def test_a_sweep_in_a_searched_folder_leaves_those_ahead_of_it_first(engine: FakeEngine, tmp_path: Path) -> None:
    option(tmp_path / "conf", 3)
    (tmp_path / "conf" / "s.yaml").write_text(SWEEP)
    own = option(tmp_path / "own", 5)
    plan = planner.make(compose.load(tmp_path / "conf" / "s.yaml", ConfigPath.of(own), multirun=True))
    assert weight(plan) == 5


def test_the_conf_of_another_program_is_left_out_with_a_word(engine: FakeEngine, tmp_path: Path) -> None:
    conf = option(tmp_path / "conf", 3)
    (conf / "config.yaml").write_text("defaults:\n  - db: mysql\nlr: 0.1\n")
    plan = planned()
    assert weight(plan) == 4
    assert [str(conf) in note for note in plan.warnings] == [True]
    (conf / "config.yaml").write_text((shipped("conf") / "config.yaml").read_text().replace("seed: 0", "seed: 5"))
    plan = planned()
    assert (weight(plan), plan.runs[0].config.seed) == (3, 5)


def test_a_searchpath_that_leads_nowhere_is_said_once(
    engine: FakeEngine, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP.replace("hydra: {", "hydra: {searchpath: ['file:///no/where'], "))
    plan = planner.make(compose.load(tmp_path / "s.yaml", ConfigPath.of(), multirun=True))
    (line,) = plan.warnings
    assert line.endswith("file:///no/where, which does not exist")
    assert [str(warning.message) for warning in recwarn if "not available" in str(warning.message)] == []


def test_yml_is_read_as_yaml(engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = option(tmp_path / "lab", 3, "three.yml")
    (own / "method").mkdir()
    (own / "method" / "mine.yml").write_text("# Of a lab\ndefaults: [minmax]\nname: mine\n")
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "s.yml").write_text(SWEEP.replace("mse", "mine").replace("w4a4", "three"))
    assert sweep_file("s") == tmp_path / "sweeps" / "s.yml"
    for name in ("s", "sweeps/s.yml"):
        assert main(["sweep", name, "--config-dir", str(own), "tracker=none", "--dry-run"]) == 0
        assert "vit_digits mine w3a3" in capsys.readouterr().out
    assert main(["list", "methods", "--config-dir", str(own)]) == 0
    assert "Of a lab" in capsys.readouterr().out
    (own / "method" / "mine.yml").write_text("name: [mine\n")
    with pytest.raises(ConfigError) as error:
        planned(own, "method=mine")
    assert error.value.problems[0].where.startswith(f"{own / 'method' / 'mine.yml'}, line 2")


def test_two_files_of_one_option_are_refused(engine: FakeEngine, tmp_path: Path) -> None:
    own = option(option(tmp_path / "lab", 3), 4, "w4a4.yml")
    with refuses(ConfigError, key="w4a4", value=str(own / "bits" / "w4a4.yml")):
        planned(own)


def test_a_folder_of_the_variable_that_is_not_there(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITQ_CONFIG_DIR", str(tmp_path / "none"))
    with refuses(ConfigError, key="VITQ_CONFIG_DIR", value=str(tmp_path / "none")):
        ConfigPath.of()


@pytest.mark.parametrize("name", ["4", "1.5", "true", "1e3"])
def test_an_option_may_be_named_by_a_number(engine: FakeEngine, tmp_path: Path, name: str) -> None:
    own = option(tmp_path / "lab", 3, f"{name}.yaml")
    option(own, 5, "6.yaml")
    assert weight(planned(own, f"bits={name}")) == 3
    file, folders = compose.root_config(str(own))
    plan = planner.make(compose.load(file, folders, [f"bits={name},6"], multirun=True), name="m")
    assert [run.config.bits.weight for run in plan.runs] == [3, 5]
