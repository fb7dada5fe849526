"""Hydra's words for launchers."""

from __future__ import annotations

from tests.errors import refuses
from vitq.errors import ConfigError
from vitq.planning import compose
from vitq.planning.overrides import launcher_overrides


def test_launchers_and_their_options() -> None:
    words = ["hydra/launcher=vitq_local", "+hydra.launcher.slots=2", "bits=w4a4"]
    assert launcher_overrides(words) == ["launcher=local", "++launcher.options.slots=2", "bits=w4a4"]
    assert launcher_overrides(["hydra/launcher=basic"]) == ["launcher=inline"]


def test_a_launcher_that_would_be_ignored_is_refused() -> None:
    with refuses(ConfigError, key="hydra/launcher", value="submitit_local", valid=["basic", "vitq_local"]):
        launcher_overrides(["hydra/launcher=submitit_local"])


def test_they_reach_the_runs() -> None:
    file, roots = compose.root_config()
    words = ["hydra/launcher=vitq_local", "hydra.launcher.slots=2", "bits=w4a4,w8a8"]
    cells = list(compose.expand(compose.load(file, roots, words, multirun=True)))
    assert [cell.problem for cell in cells] == [None, None]
    assert {(cell.raw["launcher"]["name"], cell.raw["launcher"]["options"]["slots"]) for cell in cells} == {
        ("local", 2)
    }
