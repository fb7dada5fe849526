"""Weights of a local folder, of the hub, of a tag of timm: what stands for them, and how images reach them."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import nn

from tests.errors import refuses
from tests.models.test_load import DATA, TINY, config, load, same, weights
from vitq.config import DataConfig, ModelConfig
from vitq.errors import ModelError
from vitq.models.identity import identify, pinned
from vitq.models.load import check_weights
from vitq.models.pretrained import departures, treatment


def _local(folder: Path, seed: int, **changes: Any) -> ModelConfig:
    folder.mkdir(exist_ok=True)
    save_file(weights(seed=seed), folder / "model.safetensors")
    plain = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 5,
        "model_args": TINY,
        "pretrained_cfg": {
            "num_classes": 5,
            "input_size": [3, 32, 32],
            "mean": [0.5, 0.5, 0.5],
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    (folder / "config.json").write_text(json.dumps(plain | changes))
    return config(f"local-dir:{folder}", {}, mean=[0.5] * 3)


def test_a_local_folder_is_its_content(tmp_path: Path) -> None:
    from vitq.config import RunConfig, signature

    first = identify(_local(tmp_path / "a", 1))
    assert same(load(first), weights(seed=1))
    os.rename(tmp_path / "a", tmp_path / "b")
    moved = identify(dataclasses.replace(first, name=f"local-dir:{tmp_path / 'b'}"))
    assert moved.weights == first.weights

    def sign(model: ModelConfig) -> str:
        raw = {"model": dataclasses.asdict(model), "data": {"name": "d"}, "method": {"name": "m"}}
        run, problems = RunConfig.parse(raw)
        assert run is not None, problems
        return signature(run)

    assert sign(moved) == sign(first)
    other = identify(_local(tmp_path / "b", 2))
    assert sign(other) != sign(first)
    with refuses(ModelError, key="model.weights", value=moved.weights):
        load(moved)
    assert identify(_local(tmp_path / "b", 2, label_names=["a"])).weights != other.weights
    nothing = f"local-dir:{tmp_path / 'nothing'}"
    with refuses(ModelError, key="model.name", value=nothing):
        identify(config(nothing))


def test_a_local_folders_head_is_never_a_random_one(tmp_path: Path) -> None:
    model = _local(tmp_path / "a", 1)
    seven = DataConfig(name="d", num_classes=7)
    with refuses(ModelError, key="data.num_classes", value=7, valid=[5]):
        load(model, seven)
    with refuses(ModelError, key="data.num_classes", value=7, valid=[5]):
        check_weights(nn.Identity(), model, seven)


def test_a_hub_model_is_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    fixed = config(f"hf-hub:lab/vit@{commit}", {})
    assert identify(fixed).weights is None
    assert pinned(identify(fixed)).name == fixed.name
    floating = config("hf-hub:lab/vit", {})
    with refuses(ModelError, key="model.name", value="hf-hub:lab/vit"):
        identify(floating)
    held = tmp_path / "models--lab--vit"
    (held / "snapshots" / commit).mkdir(parents=True)
    (held / "snapshots" / commit / "config.json").write_text("{}")
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text(commit)
    assert identify(floating).weights == commit
    assert pinned(identify(floating)).name == fixed.name


def test_a_plan_says_how_images_reach_a_tag_s_weights() -> None:
    plain = DataConfig(name="d", num_classes=1000)
    tag = config("vit_tiny_patch16_224.augreg_in21k_ft_in1k", {}, input_size=224, mean=[0.5] * 3, std=[0.25] * 3)
    line = treatment(tag, dataclasses.replace(plain, std=(0.125, 0.25, 0.5)))
    assert line is not None
    values = ("input_size=224", "crop_pct=", "interpolation=bicubic", "mean=[0.5,0.5,0.5]", "std=[0.125,0.25,0.5]")
    assert all(value in line for value in values), line
    assert treatment(dataclasses.replace(tag, checkpoint="w.safetensors"), plain) is None
    assert treatment(dataclasses.replace(tag, name="vit_tiny_patch16_224"), plain) is None


def test_departures_from_a_tags_preprocessing(tmp_path: Path) -> None:
    tag = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    plain = DataConfig(name="d", num_classes=1000)
    own: dict[str, Any] = {"input_size": 224, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert departures(config(tag, {}, **own), plain) == []
    (mean, std) = departures(config(tag, {}, input_size=224), plain)
    assert "model.mean=[0.485,0.456,0.406]" in mean
    assert "[0.5,0.5,0.5]" in mean
    assert "model.std" in std
    (line,) = departures(config(tag, {}, **own), dataclasses.replace(plain, mean=(0.4, 0.4, 0.4)))
    assert "data.mean=[0.4,0.4,0.4]" in line
    changes: dict[str, Any] = {"crop_pct": 0.8, "interpolation": "bilinear"}
    found = departures(config(tag, {}, **own, **changes), plain)
    assert [line.split("=")[0].rpartition(".")[2] for line in found] == ["crop_pct", "interpolation"]
    assert departures(config(tag, {}, **own, **changes, fp_top1=75.5), plain) == [], "the published figure's crop"
    larger = departures(config(tag, {"img_size": 384, "patch_size": 32}, **{**own, "input_size": 384}), plain)
    assert ["input_size" in line or "patch_size" in line for line in larger] == [True, True]
    assert departures(config(tag, {}, checkpoint="w.pth"), plain) == [], "nobody knows how these were trained"
    folder = dataclasses.replace(_local(tmp_path / "a", 1), mean=(0.4, 0.5, 0.5))
    assert ["model.mean" in line for line in departures(folder, DATA)] == [True]
