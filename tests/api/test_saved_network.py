"""A quantized model as a file: saved and loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import vitq
from tests.errors import refuses
from tests.tiny import tiny
from vitq.api.network import QuantizedNetwork
from vitq.errors import DeployError

pytestmark = pytest.mark.usefixtures("elsewhere")


# How tests.tiny builds its ViT, less what the model itself tells.
KWARGS = {"depth": 2, "img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3}


def test_save_and_load_lose_no_bit(model: nn.Module, images: Tensor, tmp_path: Path) -> None:
    q = vitq.quantize(model, "repq_vit", bits="w4a4", images=images, model_kwargs=KWARGS)
    path = q.save("model.safetensors")
    assert path.stat().st_size < 0.3 * sum(4 * p.numel() for p in model.parameters())
    again = vitq.load(tmp_path / "model.safetensors")
    assert isinstance(again, QuantizedNetwork)
    assert torch.equal(q(images), again(images))
    assert again.config.method.steps == q.config.method.steps
    table = again.sites()
    assert table.mse.isna().all()
    same = ["site", "kind", "shape", "quantizer", "granularity", "bits"]
    assert table[same].equals(q.sites()[same])
    measured = again.sites(images[:8])
    assert measured.mse[measured.kind == "weight"].isna().all()
    assert measured.mse[(measured.kind != "weight") & (measured.bits < 32)].notna().all()
    assert again.save("again.safetensors").read_bytes() == path.read_bytes()


def test_a_timm_model_tells_its_architecture_itself(images: Tensor) -> None:
    model = timm.create_model("deit_tiny_patch16_224", pretrained=False, img_size=32, num_classes=7)
    q = vitq.quantize(model, "minmax", bits="w8a8", images=images)
    assert q.config.model.name == "deit_tiny_patch16_224.fb_in1k"
    assert torch.equal(vitq.load(q.save("model.safetensors"))(images), q(images))


@pytest.mark.parametrize(
    "kwargs",
    [None, {**KWARGS, "depth": 3}, {**KWARGS, "num_heads": 4}],
    ids=["unknown", "other tensors", "same tensors, other heads"],
)
def test_save_refuses_an_architecture_that_is_not_the_models(
    model: nn.Module, images: Tensor, tmp_path: Path, kwargs: dict[str, Any] | None
) -> None:
    q = vitq.quantize(model, "minmax", bits="w4a4", images=images, model_kwargs=kwargs)
    with pytest.raises(DeployError) as error:
        q.save(tmp_path / "model.safetensors")
    assert error.value.problems[0].key == "architecture"
    assert list(tmp_path.iterdir()) == []


def test_a_backbone_without_a_head(images: Tensor) -> None:
    backbone = tiny("vit", num_classes=0)
    q = vitq.quantize(backbone, "repq_vit", bits="w8a8", images=images, model_kwargs=KWARGS)
    assert q(images).shape == backbone(images).shape == (16, 48)
    assert torch.equal(vitq.load(q.save("backbone.safetensors"))(images), q(images))


def test_save_names_a_class_that_timm_does_not_build(images: Tensor) -> None:
    model = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=3, num_classes=5)
    q = vitq.quantize(model, "minmax", bits="w4a4", images=images)
    assert q(images).shape == (16, 5)
    with pytest.raises(DeployError) as error:
        q.save("model.safetensors")
    assert error.value.problems[0].value == "VisionTransformer"


def test_load_names_the_file_that_is_not_there() -> None:
    with refuses(DeployError, key="path", value="none.safetensors"):
        vitq.load("none.safetensors")
