"""What tests of networks in memory start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import tiny


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny("vit")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, and a cache in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITQ_CACHE_DIR", str(tmp_path / "cache"))
