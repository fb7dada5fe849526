"""A cluster for the tests of this folder. All of them go to one worker of pytest-xdist: one cluster is enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing

_FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests together, and skip them with a reason where there can be no cluster."""
    reason = missing()
    for item in items:
        if item.path.is_relative_to(_FOLDER):
            item.add_marker(pytest.mark.xdist_group("slurm"))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def running() -> Iterator[Cluster]:
    """The cluster, with accounting."""
    cluster = Cluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(running: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster as new: both nodes idle, no job; the clients find it."""
    for name, value in running.env.items():
        monkeypatch.setenv(name, value)
    running.settle()
    yield running
    running.settle()
