"""Where a problem of a config is, and what was probably meant."""

from __future__ import annotations

import pytest

from vitq.errors import Problem
from vitq.planning import compose
from vitq.planning.hints import located


@pytest.mark.parametrize(
    ("override", "key", "value", "hinted"),
    [
        ("seed=[1,2]", "seed", [1, 2], True),  # a list, meant as several runs
        ("calib.ids=[1,1]", "calib.ids", [1, 1], False),  # one value, which is a list
        ("model.checkpoint=w.pth", "model.checkpoint", ["1 missing"], False),  # a list about the key's one value
    ],
)
def test_several_runs_are_meant_where_the_override_is_a_list(
    override: str, key: str, value: list[object], hinted: bool
) -> None:
    primary = compose.load(*compose.root_config(), [override])
    (cell,) = compose.expand(primary)
    found = located(Problem("it is wrong", key, value), cell, primary)
    assert (found.key, found.value) == (key, value)
    assert found.action == ("vitq run -m seed=1,2" if hinted else "")
