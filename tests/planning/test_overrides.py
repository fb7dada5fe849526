"""Hydra's words for launchers."""

from __future__ import annotations

import pytest

from tests.errors import refuses
from vitq.errors import ConfigError
from vitq.planning import compose
from vitq.planning.overrides import launcher_overrides, without_effect


def test_launchers_and_their_options() -> None:
    words = ["hydra/launcher=vitq_local", "+hydra.launcher.slots=2", "bits=w4a4"]
    assert launcher_overrides(words) == ["launcher=local", "++launcher.options.slots=2", "bits=w4a4"]
    assert launcher_overrides(["hydra/launcher=basic"]) == ["launcher=inline"]


def test_a_launcher_that_would_be_ignored_is_refused() -> None:
    with refuses(ConfigError, key="hydra/launcher", value="submitit_local", valid=["basic", "vitq_local"]):
        launcher_overrides(["hydra/launcher=submitit_local"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hydra.run.dir", "out"),
        ("hydra.sweep.dir", "out"),
        ("hydra.job.chdir", "true"),
        ("hydra.sweeper.max_batch_size", "2"),
        ("hydra/job_logging", "disabled"),
        ("hydra.callbacks.x", "{}"),
    ],
)
@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_other_settings_of_hydra_are_refused(sign: str, key: str, value: str) -> None:
    with refuses(ConfigError, key=key, value=value):
        launcher_overrides([f"{sign}{key}={value}", "bits=w4a4"])


def test_settings_of_a_file_without_effect_are_a_warning() -> None:
    read = {
        "mode": "MULTIRUN",
        "sweeper": {"params": {"seed": "1,2"}, "_target_": "x"},
        "launcher": {},
        "searchpath": [],
    }
    assert without_effect(read) == []
    found = without_effect({**read, "run": {"dir": "out"}, "sweeper": {"max_batch_size": 2}})
    assert [line.partition(":")[0] for line in found] == ["hydra.run", "hydra.sweeper.max_batch_size"]


def test_they_reach_the_runs() -> None:
    file, roots = compose.root_config()
    words = ["hydra/launcher=vitq_local", "hydra.launcher.slots=2", "bits=w4a4,w8a8"]
    cells = list(compose.expand(compose.load(file, roots, words, multirun=True)))
    assert [cell.problem for cell in cells] == [None, None]
    assert {(cell.raw["launcher"]["name"], cell.raw["launcher"]["options"]["slots"]) for cell in cells} == {
        ("local", 2)
    }
