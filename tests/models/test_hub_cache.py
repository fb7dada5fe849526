"""Which pretrained weights lie in the hub's cache, and what the plan says of those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.errors import refuses
from vitq.config import DataConfig, ModelConfig
from vitq.errors import ModelError
from vitq.models.build import shell
from vitq.models.hub_cache import missing, repository
from vitq.models.load import check_weights

DEIT = ModelConfig("deit_tiny_patch16_224.fb_in1k")
REPOSITORY = "timm/deit_tiny_patch16_224.fb_in1k"
COMMIT = "0" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put(cache: Path, repo: str, file: str = "model.safetensors") -> None:
    """A repository as the hub's client keeps it."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / file).write_bytes(b"weights")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_found_in_either_format(cache: Path, file: str) -> None:
    assert missing(DEIT) == REPOSITORY
    put(cache, REPOSITORY, "config.json")
    assert missing(DEIT) == REPOSITORY
    (cache / "models--timm--deit_tiny_patch16_224.fb_in1k" / "snapshots" / COMMIT / file).write_bytes(b"weights")
    assert missing(DEIT) is None


def test_a_hub_model_is_found_at_its_commit(cache: Path) -> None:
    put(cache, "someone/vit")
    assert missing(ModelConfig(f"hf-hub:someone/vit@{COMMIT}")) is None
    assert missing(ModelConfig(f"hf-hub:someone/vit@{'1' * 40}")) == "someone/vit"
    assert repository(ModelConfig(f"hf-hub:someone/vit@{COMMIT}")) == ("someone/vit", COMMIT)


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig("deit_tiny_patch16_224.fb_in1k", checkpoint="weights.pth"),
        ModelConfig("deit_tiny_patch16_224", pretrained=False),
        ModelConfig("vit_digits"),
    ],
)
def test_weights_from_elsewhere_are_not_looked_for(cache: Path, model: ModelConfig) -> None:
    assert repository(model) is None
    assert missing(model) is None


def test_offline_the_plan_refuses_what_is_missing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataConfig(name="imagenet")
    network = shell(DEIT, data)
    assert check_weights(network, DEIT, data) == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with refuses(ModelError, "model.name", DEIT.name):
        check_weights(network, DEIT, data)
    put(cache, REPOSITORY)
    assert check_weights(network, DEIT, data) == []
