"""What several tests of steps start from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.mixed import CALIBRATE, METHOD
from tests.tiny import run, tiny
from vitq.steps import Workspace


@pytest.fixture
def calibrated(workspace: Callable[..., Workspace]) -> Callable[..., Workspace]:
    """Workspaces of `METHOD` with a calibrated tiny model of some `shape`, at the bits that they are called with."""

    def made(
        family: str = "vit", weight: Any = 4, activation: Any = 4, shape: dict[str, Any] | None = None, **bits: Any
    ) -> Workspace:
        model = tiny(family, **shape or {})
        work = workspace(model, METHOD, images=8, weight=weight, activation=activation, **bits)
        run(work, CALIBRATE)
        return work

    return made
