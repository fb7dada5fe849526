"""What YAML reads as something else than it says to a reader is refused, with file and line; the rest is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.errors import is_about
from tests.fake_engine import FakeEngine
from vitq.config.search_path import ConfigPath
from vitq.errors import ConfigError, Problem
from vitq.planning import compose, planner

HEAD = "defaults: [config, _self_]\n"


def raw(file: Path, *words: str) -> dict[str, Any]:
    (cell,) = compose.expand(compose.load(file, ConfigPath.of(), words, multirun=True))
    assert cell.problem is None
    return cell.raw


def refused(file: Path, *words: str) -> Problem:
    with pytest.raises(ConfigError) as error:
        planner.make(compose.load(file, ConfigPath.of(), words, multirun=True), name="m")
    (problem,) = error.value.problems
    return problem


def written(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("seed: 010\n", "seed", "010"),
        ("calib: {size: 0_100}\n", "calib.size", "0_100"),
        ("calib: {size: 1:30}\n", "calib.size", "1:30"),
        ("data: {name: 1:30}\n", "data.name", "1:30"),
        ("model: {crop_pct: 0:00.9}\n", "model.crop_pct", "0:00.9"),
        ("calib: {ids: [1, 0100]}\n", "calib.ids.1", "0100"),
        ("hydra: {sweeper: {params: {seed: 010}}}\n", "hydra.sweeper.params.seed", "010"),
        ("launcher: {options: {time: 0120}}\n", "launcher.options.time", "0120"),
        ("model: {kwargs: {qkv_bias: off}}\n", "model.kwargs.qkv_bias", "off"),
        ("launcher: {options: {extra: {comment: Yes}}}\n", "launcher.options.extra.comment", "Yes"),
    ],
)
def test_what_yaml_reads_otherwise_is_refused(
    engine: FakeEngine, tmp_path: Path, text: str, key: str, value: str
) -> None:
    problem = refused(written(tmp_path / "mine.yaml", HEAD + text))
    assert is_about(problem, key, value)
    assert problem.where == f"{tmp_path / 'mine.yaml'}, line 2"


def test_it_is_found_in_options_of_groups_in_their_own_defaults_and_in_the_base_of_a_method(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path / "mine.yaml", HEAD)
    below = written(tmp_path / "conf/calib/below.yaml", "batch_size: 16\nsize: 064\n")
    written(tmp_path / "conf/calib/above.yaml", "defaults: [below]\n")
    recipe = written(tmp_path / "conf/method/old.yaml", "name: old\nkinds: {default: {}}\nsteps: {a: {iters: 020}}\n")
    written(tmp_path / "conf/method/new.yaml", "base: old\nname: new\n")
    for words, key, where in [
        (["calib=below"], "calib.size", f"{below}, line 2"),
        (["calib=above"], "calib.size", f"{below}, line 2"),
        (["method=new"], "method.steps.a.iters", f"{recipe}, line 3"),
    ]:
        problem = refused(file, *words)
        assert is_about(problem, key)
        assert problem.where == where
    assert raw(file, "calib=above", "calib.size=64")["calib"]["size"] == 64  # what the file says does not count


def test_what_means_what_it_says_is_taken(tmp_path: Path) -> None:
    file = written(
        tmp_path / "mine.yaml",
        HEAD + "seed: 007\ncalib: {size: 1_000, balanced: no, batch_size: 1e2}\ndata: {name: '010'}\n"
        "model: {kwargs: {embed_dim: 0x10, act: 'off', qkv_bias: false}}\nlauncher: {options: {time: 2:00:00}}\n",
    )
    config = raw(file)
    assert config["seed"] == 7
    assert config["calib"] == {**config["calib"], "size": 1000, "balanced": False, "batch_size": 100}
    assert config["data"]["name"] == "010"
    assert config["model"]["kwargs"] == {**config["model"]["kwargs"], "embed_dim": 16, "act": "off", "qkv_bias": False}
    assert config["launcher"]["options"]["time"] == "2:00:00"


def test_a_word_for_a_switch_among_the_arguments_of_a_network_is_no_text(engine: FakeEngine, tmp_path: Path) -> None:
    file = written(tmp_path / "mine.yaml", HEAD)
    assert is_about(refused(file, "model.kwargs.qkv_bias=off"), "model.kwargs.qkv_bias", "off")
    assert raw(file, "model.kwargs.act='off'")["model"]["kwargs"]["act"] == "off"


def test_a_name_that_yaml_takes_for_a_switch_is_refused_on_top_of_a_base_too(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "conf/method/mine.yaml", "base: minmax\nname: no\n")
    assert is_about(refused(written(tmp_path / "mine.yaml", HEAD), "method=mine"), "method.name", False)


def test_the_file_of_an_option_is_named_that_was_chosen_on_the_command_line(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    option = written(tmp_path / "conf/calib/mine.yaml", "size: many\n")
    problem = refused(written(tmp_path / "mine.yaml", HEAD), "calib=mine")
    assert is_about(problem, "calib.size", "many")
    assert problem.where == f"{option}, line 1"
