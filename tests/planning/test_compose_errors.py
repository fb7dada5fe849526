"""What does not compose names the override, or the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.errors import is_about, problem_fields, refuses
from tests.fake_engine import FakeEngine
from vitq.config.search_path import ConfigPath
from vitq.errors import ConfigError, Problem
from vitq.planning import compose, planner

HEAD = "defaults: [config, _self_]\n"
PARAMS, SWEPT = "hydra: {sweeper: {params: ", "hydra.sweeper.params"


def problem_of_file(folder: Path, text: str | bytes, *overrides: str) -> Problem:
    file = folder / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        planner.make(compose.load(file, ConfigPath.of(), overrides, multirun=True))
    return error.value.problems[0]


def problem_of_words(*overrides: str) -> Problem:
    file, folders = compose.root_config()
    with pytest.raises(ConfigError) as error:
        planner.make(compose.load(file, folders, overrides, multirun=True), name="m")
    return error.value.problems[0]


@pytest.mark.parametrize(
    ("text", "key", "line", "value", "action"),
    [
        (HEAD + "calib:\n  size: ${oc.env:NO_SUCH}\n", "calib.size", 3, "${oc.env:NO_SUCH}", ""),
        (HEAD + "seed: ${nothing.there}\n", "seed", 2, "${nothing.there}", ""),
        (HEAD + "seed: ${unheard:3}\n", "seed", 2, "${unheard:3}", ""),
        (HEAD + "data:\n\n  labels: ???\n", "data.labels", 4, "???", ""),
        (HEAD + f"{PARAMS}{{seed: '${{oc.env:NO_SUCH}}'}}}}}}\n", f"{SWEPT}.seed", 2, "${oc.env:NO_SUCH}", ""),
        (HEAD + f"{PARAMS}{{bits.first_last: null}}}}}}\n", f"{SWEPT}.bits.first_last", 2, "null", ""),
        (HEAD + "hydra:\n  run: {dirr: x}\n", "hydra.run.dirr", 3, "x", ""),
        (HEAD + "hydra: {mode: several}\n", "hydra.mode", 2, "several", ""),
        (HEAD + "method: mse\n", "method", 2, "mse", "- override /method: mse"),
        (HEAD + "calib: {sizee: 3}\n", "calib.sizee", 2, "sizee", "size"),
        (HEAD + "calib: {size: many}\n", "calib.size", 2, "many", ""),
    ],
)
def test_a_file_is_named_with_its_line(
    engine: FakeEngine, tmp_path: Path, text: str, key: str, line: int, value: str, action: str
) -> None:
    problem = problem_of_file(tmp_path, text)
    assert is_about(problem, key, value), problem_fields(problem)
    assert (problem.where, problem.action) == (f"{tmp_path / 'mine.yaml'}, line {line}", action)


@pytest.mark.parametrize(
    "text",
    [
        "defaults: 3\n", "defaults: [[config]]\n", "- a\n", "", "hydra: 3\n", HEAD + "hydra: 3\n", HEAD + "sweep: 3\n",
        HEAD + "hydra: {sweeper: 3}\n", HEAD + "hydra: {sweeper: {params: [a]}}\n", HEAD + "hydra: {searchpath: 3}\n",
        "defaults: [confg]\n", "defaults: [config, override /methd: mse]\n", b"# gr\xfc\xdfe\ndefaults: [config]\n",
        "defaults:\n\t- config\n", HEAD + "seed: '${'\n", HEAD + "seed: ${calib.size}\ncalib: {size: '${seed}'}\n",
    ],
)  # fmt: skip
def test_a_malformed_file_is_a_problem_and_no_traceback(engine: FakeEngine, tmp_path: Path, text: str | bytes) -> None:
    problem = problem_of_file(tmp_path, text, "tracker=none")
    assert "mine.yaml" in problem.where or problem.key, problem_fields(problem)
    assert "\n" not in problem


def test_a_file_that_is_no_primary_config_says_what_it_lacks(engine: FakeEngine, tmp_path: Path) -> None:
    """One line, not one for each key of a recipe."""
    problem = problem_of_file(tmp_path, "name: mine\nkinds: {default: {}}\n", "sweep.name=s")
    assert is_about(problem, "defaults")
    assert problem.action == "defaults: [config, _self_]"


def test_a_sweep_section_is_nothing_for_a_single_run(engine: FakeEngine) -> None:
    file, folders = compose.root_config()
    with refuses(ConfigError, "sweep.baseline"):
        compose.load(file, folders, ["sweep.baseline=mse"])


def test_a_config_without_defaults_says_what_to_begin_with(engine: FakeEngine, tmp_path: Path) -> None:
    problem = problem_of_file(tmp_path, "sweep: {name: s}\n", "tracker=none")
    assert is_about(problem, "tracker", "none")
    assert problem.action == "defaults: [config, _self_]"


def test_a_group_that_no_default_chooses_is_added_with_a_plus(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "low.yaml").write_text("# @package _global_\nseed: 1\n")
    problem = problem_of_words("experiment=low")
    assert is_about(problem, "experiment", "low")
    assert problem.action == "+experiment=low"
    file, folders = compose.root_config()
    (cell,) = compose.expand(compose.load(file, folders, ["+experiment=low"]))
    assert cell.raw["seed"] == 1


@pytest.mark.parametrize(
    ("word", "located", "action"),
    [
        ("seed=${oc.env:NO_SUCH}", True, ""),
        ("seed=[1,2]", False, "vitq run -m seed=1,2"),
        ("calib.size=???", True, ""),
        ("data.root=${hydra:runtime.cwd}/x", True, "${oc.env:PWD}"),
        ("data.root=${PATH}/x", True, "${oc.env:PATH}"),
        ("calib_size=64", False, "calib.size"),
        ("calib/size=64", False, "calib.size"),
    ],
)
def test_an_override_is_named(engine: FakeEngine, word: str, located: bool, action: str) -> None:
    """located: it does not compose; the key of the others is looked up in the composed config."""
    problem = problem_of_words(word)
    assert problem.key == word.partition("=")[0]
    assert (problem.where, problem.action) == (f"override '{word}'" if located else "", action)


def test_axes_of_hydras_sweeper_may_stand_on_the_command_line(engine: FakeEngine) -> None:
    file, folders = compose.root_config()
    primary = compose.load(file, folders, ['+hydra.sweeper.params.seed="1,2"'], multirun=True)
    assert [cell.raw["seed"] for cell in compose.expand(primary)] == [1, 2]


def test_an_axis_of_a_file_that_does_not_parse_is_named_with_its_line(engine: FakeEngine, tmp_path: Path) -> None:
    problem = problem_of_file(tmp_path, HEAD + "hydra:\n  sweeper:\n    params:\n      data.root: ~x(y\n")
    assert problem.where.startswith(f"{tmp_path / 'mine.yaml'}, line 5 ")
