"""Overrides that Hydra's grammar does not read come back as they were meant."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.errors import is_about, refuses
from vitq.errors import ConfigError
from vitq.planning import compose
from vitq.planning.overrides import parse_value
from vitq.planning.quoting import as_meant, quoted

# Letters and signs of paths, blanks and whatever else a grammar stumbles over.
TEXTS = st.text(st.sampled_from("abß~/.,=#()[]{}:'\"\\$%&*?!|;<>@ \t+-1"), min_size=1, max_size=12)


@given(TEXTS)
def test_a_quoted_value_is_that_text(value: str) -> None:
    (word,) = shlex.split(quoted("data.root", value))
    if "${" not in value:
        assert parse_value(word) == ("data.root", value)


@given(TEXTS)
def test_what_is_suggested_can_be_typed_and_is_one_value(value: str) -> None:
    text = f"data.root={value}"
    meant = as_meant(text)
    if meant is None:
        assert not value.strip()
        return
    (word,) = shlex.split(meant)
    key, found = parse_value(word)
    assert key == "data.root"
    if found != value.strip():  # it was readable as it stood: a number, a list, an escape
        assert word == f"data.root={value.strip()}" or isinstance(found, dict)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("model.checkpoint=~/w.pth", "'model.checkpoint=\"~/w.pth\"'"),
        ("data.root=/mnt/Größe", "'data.root=\"/mnt/Größe\"'"),
        ("data.root=/a=b", "'data.root=\"/a=b\"'"),
        ("data.root=/my (old) data", "'data.root=\"/my (old) data\"'"),
        ("seed = 3", "seed=3"),
        ("data.name=ab,", "data.name=ab"),
        ('bits.sites={"head.*": 8}', "'bits.sites={head.*: 8}'"),
        ("bits.sites.blocks.*.weight=8", "'bits.sites={blocks.*.weight: 8}'"),
        ("calib.size:5", "calib.size=5"),
        ("model.mean=(0.5,0.5,0.5)", "'model.mean=[0.5,0.5,0.5]'"),
    ],
)
def test_an_override_that_does_not_parse_shows_one_that_does(override: str, meant: str) -> None:
    file, folders = compose.root_config()
    with pytest.raises(ConfigError) as error:
        compose.load(file, folders, [override])
    (problem,) = error.value.problems
    assert (problem.value, problem.action) == (override, meant)
    (word,) = shlex.split(meant)
    (cell,) = compose.expand(compose.load(file, folders, [word]))
    assert cell.problem is None


@pytest.mark.parametrize(
    ("word", "meant"), [("seed=0,1,", "seed=0,1"), ("bits=w4a4,,w3a3", "bits=w4a4,w3a3"), ("–-dry-run", "--dry-run")]
)
def test_a_comma_too_many_and_a_long_dash(word: str, meant: str) -> None:
    file, folders = compose.root_config()
    with pytest.raises(ConfigError) as error:
        compose.load(file, folders, [word], multirun=True)
    (problem,) = error.value.problems
    assert (problem.value, problem.action) == (word, meant)


def test_one_value_with_a_comma_is_shown_quoted() -> None:
    file, folders = compose.root_config()
    with pytest.raises(ConfigError) as error:
        compose.load(file, folders, ["data.root=/data/v1,2"])
    (problem,) = error.value.problems
    assert is_about(problem, "data.root", ["/data/v1", "2"])
    assert problem.action == "'data.root=\"/data/v1,2\"'"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("model.mean=0.5,0.5,0.5", "'model.mean=[0.5,0.5,0.5]'"),
        ("calib.ids=1,2", "'calib.ids=[1,2]'"),
        ("probe=landscape,hessian", "'probe=[landscape,hessian]'"),
    ],
)
def test_several_values_of_a_key_that_takes_a_list_are_shown_as_one(word: str, meant: str) -> None:
    file, folders = compose.root_config()
    with refuses(ConfigError, word.partition("=")[0]) as error:
        compose.load(file, folders, [word])
    assert error.value.problems[0].action == meant


@pytest.mark.parametrize("value", ["range(3,0)", "interval(0,1)"])
def test_an_axis_without_values_is_refused(value: str) -> None:
    file, folders = compose.root_config()
    with refuses(ConfigError, "seed", value):
        compose.load(file, folders, [f"seed={value}"], multirun=True)
