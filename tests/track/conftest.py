"""W&B without the machine's settings, and a server of our own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.track.fake_wandb import FakeWandb, serve
from tests.track.runs import KEY
from vitq.track import session


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """W&B sees no variables, keys or settings of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-settings"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    # The service remembers its environment (server, key); the next test starts its own.
    if "wandb" in sys.modules:
        session.drop_service()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    """A server, a key for it, and a short wait where it refuses."""
    with serve(FakeWandb()) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
        yield server
        session.drop_service()
