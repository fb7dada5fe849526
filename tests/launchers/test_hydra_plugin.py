"""The Hydra launcher plugin under Hydra's own conformance suite, and what it adds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite
from hydra_plugins.vitq_launcher import LocalConf, SlurmConf

from tests import hydra_app
from vitq.launchers.local.launcher import Local
from vitq.launchers.slurm.launcher import Slurm


def test_hydra_finds_it() -> None:
    names = [plugin.__name__ for plugin in Plugins.instance().discover(Launcher)]
    assert {"VitqLocalLauncher", "VitqSlurmLauncher"} <= set(names)


@pytest.mark.parametrize(("conf", "options"), [(LocalConf, Local.Options), (SlurmConf, Slurm.Options)])
def test_its_options_are_those_of_vitqs_launchers(conf: type, options: type) -> None:
    """With their defaults: what a Hydra user does not set means the same as in `launcher=`."""
    theirs = {field.name: field for field in dataclasses.fields(options)}
    assert {field.name for field in dataclasses.fields(conf)} - {"_target_"} <= set(theirs)
    given = {field.name: getattr(conf(), field.name) for field in dataclasses.fields(conf) if field.name != "_target_"}
    assert options(**given) == options()


@pytest.mark.usefixtures("nothing_composed")
@pytest.mark.slow
@pytest.mark.parametrize(("launcher_name", "overrides"), [("vitq_local", ["hydra.launcher.slots=2"])])
class TestLocal(LauncherTestSuite):
    """Hydra's suite for launchers."""


@pytest.mark.usefixtures("nothing_composed")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher_name", "overrides"),
    [("vitq_local", ["hydra/sweeper=basic", "hydra.sweeper.max_batch_size=2"])],
)
class TestBatches(BatchedSweeperTestSuite):
    """Batches of jobs."""


@pytest.mark.usefixtures("nothing_composed")
@pytest.mark.slow
@pytest.mark.parametrize(("task_launcher_cfg", "extra_flags"), [({}, ["-m", "hydra/launcher=vitq_local"])])
class TestIntegration(IntegrationTestSuite):
    """Working folders and job names."""


@pytest.mark.slow
def test_failures_are_raised_at_the_end_all_of_them(tmp_path: Path) -> None:
    done = hydra_app.start(tmp_path, "+x=1,2,3,4", "hydra/launcher=vitq_local", "hydra.launcher.slots=2")
    assert done.returncode == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1", "4"]
    assert "2 of 4 jobs failed:" in done.stderr
    assert "#1 +x=2: ValueError: two is bad" in done.stderr
    assert "#2 +x=3: the process ended with SIGKILL before the job had returned" in done.stderr


def test_a_wrong_option_is_named(tmp_path: Path) -> None:
    done = hydra_app.start(tmp_path, "+x=1,4", "hydra/launcher=vitq_local", "hydra.launcher.slots=0")
    assert done.returncode == 1
    assert "hydra.launcher.slots=0: Input should be greater than or equal to 1" in done.stderr
