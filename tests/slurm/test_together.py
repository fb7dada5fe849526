"""The tests of this folder share one cluster, so all of them run in one worker."""

from __future__ import annotations

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="there is one worker without xdist")
def test_xdist_keeps_these_tests_together(request: pytest.FixtureRequest) -> None:
    """pytest 9.2 with xdist 3.8 groups nothing, without a word (pytest-dev/pytest-xdist#1386)."""
    assert request.node.nodeid.endswith("@slurm")
