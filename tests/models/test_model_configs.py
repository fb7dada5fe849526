"""The shipped conf/model and conf/data: valid, pinned, and of the papers' protocol."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import yaml
from pydantic import TypeAdapter

from vitq.config import DataConfig, ModelConfig
from vitq.models.load import identify

CONF = Path(__file__).resolve().parents[2] / "conf"
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


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


@pytest.mark.parametrize("name", ["digits", "imagenet"])
def test_data(name: str) -> None:
    data = TypeAdapter(DataConfig).validate_python(yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text()))
    assert data.name == name
