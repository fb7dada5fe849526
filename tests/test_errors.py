"""The wording of errors, and that their fields stay whatever they are wrapped in. All other tests look at fields."""

from __future__ import annotations

import pickle

import pytest

from vitq.config.problems import merge
from vitq.errors import ConfigError, DataError, Problem, VitqError, bad, brief, problem_of, under, unknown


def fields(problem: Problem) -> tuple[str, object, tuple[object, ...]]:
    return problem.key, problem.value, problem.valid


def test_a_value_that_cannot_be() -> None:
    problem = bad("images", 0, "at least 1 is needed")
    assert problem == "images=0; at least 1 is needed"
    assert fields(problem) == ("images", 0, ())


def test_a_name_that_does_not_exist_comes_with_those_that_do() -> None:
    problem = unknown("quantizer", "logg2", ["uniform", "log2"], "Or register it.", key="quantizer")
    assert problem == "unknown quantizer 'logg2'; valid: log2, uniform. Did you mean 'log2'? Or register it."
    assert fields(problem) == ("quantizer", "logg2", ("log2", "uniform"))
    assert unknown("sweep", "x", []) == "unknown sweep 'x'; valid: ."


def test_a_problem_of_a_key_below_another() -> None:
    problem = under("method.steps.a", bad("images", 0, "at least 1 is needed"))
    assert problem == "method.steps.a: images=0; at least 1 is needed"
    assert fields(problem) == ("method.steps.a.images", 0, ())
    plain = under("method.steps.a", "a text of a plug-in")
    assert plain == "method.steps.a: a text of a plug-in"
    assert fields(plain) == ("method.steps.a", None, ())


def test_runs_with_the_same_problem_are_one_line() -> None:
    size, data = bad("calib.size", 0, "at least 1"), bad("data.root", "x", "no folder")
    found = merge([("a", size), ("b", size), ("a", data), ("", Problem("no runs"))], runs=2)
    assert found == ["calib.size=0; at least 1  [all 2 runs]", "data.root=x; no folder  [1 of 2 runs: a]", "no runs"]
    assert [problem.key for problem in found] == ["calib.size", "data.root", ""]
    assert merge([("a", size)], runs=1) == [size]
    many = merge([(name, size) for name in "abcd"], runs=9)
    assert many == ["calib.size=0; at least 1  [4 of 9 runs: a; b; c; …]"]


def test_a_config_error_counts_its_problems() -> None:
    error = ConfigError([bad("seed", -1, "at least 0"), "a text"])
    assert str(error) == ("2 problems in the configuration; nothing was started\n  - seed=-1; at least 0\n  - a text")
    assert str(ConfigError(["a text"])) == "1 problem in the configuration; nothing was started\n  - a text"
    assert brief(error) == " ".join(str(error).split())
    assert [problem.key for problem in error.problems] == ["seed", ""]


@pytest.mark.parametrize(
    "error",
    [
        DataError("data.root='x' is not a folder", "data.root", "x", ["y"]),
        ConfigError([Problem("data.root='x' is not a folder", "data.root", "x", ["y"])]),
    ],
)
def test_fields_reach_another_process(error: VitqError) -> None:
    (before,), (after,) = error.problems, pickle.loads(pickle.dumps(error)).problems
    assert (str(after), fields(after)) == (str(before), ("data.root", "x", ("y",)))


def test_an_error_of_any_class_carries_a_problem() -> None:
    assert fields(problem_of(ValueError(bad("m", 16, "valid: 0 to 15")))) == ("m", 16, ())
    assert problem_of(ValueError("a text")) == "a text"
    assert problem_of(OSError(2, "No such file")) == "[Errno 2] No such file"
    assert VitqError("a text").problems == ["a text"]
    assert VitqError(bad("m", 16, "no")).problems[0].key == "m"
