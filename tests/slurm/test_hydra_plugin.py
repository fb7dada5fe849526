"""`hydra/launcher=vitq_slurm` in an application of its own, on the real cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, LauncherTestSuite

from tests import hydra_app
from tests.slurm.cluster import Cluster

QUICK = ["hydra.launcher.poll=0.2", "hydra.launcher.ask=1", "hydra.launcher.mem=100MB", "hydra.launcher.time=30"]


def test_jobs_run_on_the_cluster_and_all_errors_come_at_the_end(cluster: Cluster, tmp_path: Path) -> None:
    done = hydra_app.start(tmp_path, "+x=1,2,3,4,5,6", "hydra/launcher=vitq_slurm", *QUICK)
    assert done.returncode == 1, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1", "4", "5", "6"]
    assert all(path.read_text().isdigit() for path in (tmp_path / "out").iterdir())
    assert "2 of 6 jobs failed:" in done.stderr
    assert "ValueError: two is bad" in done.stderr
    assert "its SLURM job ended without an answer" in done.stderr


@pytest.mark.usefixtures("nothing_composed", "cluster")
@pytest.mark.slow
@pytest.mark.parametrize(("launcher_name", "overrides"), [("vitq_slurm", QUICK)])
class TestSlurm(LauncherTestSuite):
    """Hydra's suite for launchers."""


@pytest.mark.usefixtures("nothing_composed", "cluster")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher_name", "overrides"),
    [("vitq_slurm", ["hydra/sweeper=basic", "hydra.sweeper.max_batch_size=2", *QUICK])],
)
class TestBatches(BatchedSweeperTestSuite):
    """Batches of jobs, an array each."""
