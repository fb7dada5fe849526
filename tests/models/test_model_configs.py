"""The shipped conf/model and conf/data: valid, pinned, and of the papers' protocol."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import yaml
from pydantic import TypeAdapter

from tests.errors import refuses
from vitq.config import DataConfig, ModelConfig
from vitq.errors import ModelError
from vitq.models.build import shell
from vitq.models.load import identify

CONF = Path(__file__).resolve().parents[2] / "conf"
DETECTORS = sorted(path.stem for path in (CONF / "model").glob("*rcnn_swin*.yaml"))
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if path.stem not in DETECTORS)


def read(name: str) -> ModelConfig:
    return TypeAdapter(ModelConfig).validate_python(yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text()))


def test_all_are_there() -> None:
    paper = {f"{family}_{size}" for family in ("deit", "swin") for size in ("tiny", "small", "base")}
    assert set(MODELS) >= paper | {"vit_small", "vit_base", "vit_digits", "swin_digits", "timm"}


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    model = read(name)
    identify(model)
    if model.train is not None:
        return
    tag = timm.get_pretrained_cfg(model.name, allow_unregistered=False)
    assert tag is not None
    assert tag.num_classes == 1000
    assert (model.mean, model.std) == (tag.mean, tag.std)
    assert model.interpolation == tag.interpolation
    assert tag.input_size == model.image_shape
    # RepQ-ViT, ERQ and I&S-ViT score DeiT at 0.875, timm at 0.9.
    assert model.crop_pct == (0.875 if name.startswith("deit") else tag.crop_pct)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("mask_rcnn_swin_tiny", 47.8), ("mask_rcnn_swin_small", 69.1),
        ("cascade_mask_rcnn_swin_tiny", 85.6), ("cascade_mask_rcnn_swin_small", 107.0),
    ],
)  # fmt: skip
def test_detector(name: str, millions: float) -> None:
    """Sizes as the original code's repository tells them, 48, 69, 86 and 107 million parameters."""
    model = read(name)
    assert name in DETECTORS
    with refuses(ModelError, "model.train"):
        identify(model)
    network = shell(model, DataConfig("coco", num_classes=80))
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    assert (model.short_side, model.long_side) == (800, 1333)


@pytest.mark.parametrize("name", ["digits", "imagenet", "coco", "digit_scenes"])
def test_data(name: str) -> None:
    data = TypeAdapter(DataConfig).validate_python(yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text()))
    assert data.name == name
