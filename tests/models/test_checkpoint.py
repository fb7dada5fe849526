"""Checkpoints as labs have them, and what stands for weights that are no file of the user's."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.errors import refuses
from tests.models.test_load import DATA, TINY, config, load, same, weights
from vitq.config import DataConfig, ModelConfig
from vitq.errors import ModelError
from vitq.models.build import shell
from vitq.models.identity import identify, pinned
from vitq.models.load import check_weights
from vitq.models.pretrained import departures, treatment


def _saved(path: Path, content: Any) -> ModelConfig:
    torch.save(content, path)
    return config(checkpoint=str(path))


def _notes(model: ModelConfig) -> list[str]:
    return check_weights(shell(model, DATA), model, DATA)


def _named(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize("key", ["model_ema", "teacher", "ema.weights"])
def test_the_key_chooses(tmp_path: Path, key: str) -> None:
    usual, wanted = weights(seed=1), weights(seed=2)
    content: dict[str, Any] = {"model": usual, "epoch": 3}
    first, _, second = key.partition(".")
    content[first] = {second: wanted} if second else wanted
    model = _saved(tmp_path / "w.pth", content)
    assert same(load(model), usual)
    chosen = dataclasses.replace(model, checkpoint_key=key)
    assert same(load(chosen), wanted)
    assert _notes(chosen) == []
    if not second:
        assert any(f"model.checkpoint_key={key}" in line for line in _notes(model))


def test_networks_under_one_state_dict(tmp_path: Path) -> None:
    first, second = weights(seed=1), weights(seed=2)
    model = _saved(tmp_path / "w.ckpt", {"state_dict": _named(first, "model.") | _named(second, "ema_model.")})
    with refuses(ModelError, key="model.checkpoint_key", value=None, valid=["ema_model", "model"]):
        load(model)
    assert same(load(dataclasses.replace(model, checkpoint_key="ema_model")), second)
    assert same(load(dataclasses.replace(model, checkpoint_key="model")), first)


@pytest.mark.parametrize("key", ["state_dict.model", "model.state_dict", "ema.module.weights"])
def test_weights_under_a_key_within_another(tmp_path: Path, key: str) -> None:
    state = weights()
    content: Any = state
    for part in reversed(key.split(".")):
        content = {part: content, "epoch": 3}
    model = _saved(tmp_path / "w.pth", content)
    assert same(load(model), state)
    (note,) = _notes(model)
    assert repr(key) in note
    content = {"ema": {"student": weights(seed=1), "teacher": state}}
    with refuses(ModelError, key="model.checkpoint_key", value=None, valid=["ema.student", "ema.teacher"]):
        load(_saved(tmp_path / "two.pth", content))
    assert same(load(config(checkpoint=str(tmp_path / "two.pth"), checkpoint_key="ema.teacher")), state)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_pointer_of_git_lfs_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with refuses(ModelError, key="model.checkpoint", value=str(tmp_path / name)) as raised:
        load(config(checkpoint=str(tmp_path / name)))
    assert raised.value.problems[0].action == "git lfs pull"


@pytest.mark.parametrize("content", [b"", b"\n<!DOCTYPE html><html>404"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_what_a_transfer_left_is_no_checkpoint(tmp_path: Path, name: str, content: bytes) -> None:
    """And no recipe is shown that would unpickle it."""
    (tmp_path / name).write_bytes(content)
    with refuses(ModelError, key="model.checkpoint", value=str(tmp_path / name)) as raised:
        load(config(checkpoint=str(tmp_path / name)))
    assert raised.value.problems[0].action == ""


def test_codes_of_a_quantized_file_are_no_weights(tmp_path: Path) -> None:
    """They would load as numbers from -128 to 127."""
    whole = {name: value.to(torch.int8) for name, value in weights().items()}
    with refuses(ModelError, key="model.checkpoint", value=str(tmp_path / "w.pth")):
        load(_saved(tmp_path / "w.pth", whole))


def test_one_unusual_key_is_taken_and_several_are_not(tmp_path: Path) -> None:
    state = weights()
    assert same(load(_saved(tmp_path / "a.pth", {"teacher": state, "epoch": 1})), state)
    assert any("'teacher'" in line for line in _notes(config(checkpoint=str(tmp_path / "a.pth"))))
    with refuses(ModelError, key="model.checkpoint_key", value=None, valid=["teacher", "student"]):
        load(_saved(tmp_path / "b.pth", {"teacher": state, "student": state}))
    with refuses(ModelError, key="model.checkpoint_key", value="teachr", valid=["student", "teacher"]):
        load(dataclasses.replace(config(checkpoint=str(tmp_path / "b.pth")), checkpoint_key="teachr"))


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "module.model.", "student.backbone.", "_orig_mod.module."])
def test_prefixes(tmp_path: Path, prefix: str) -> None:
    state = weights()
    assert same(load(_saved(tmp_path / "w.pth.tar", {"state_dict": _named(state, prefix)})), state)


def test_what_stands_beside_a_prefix(tmp_path: Path) -> None:
    state = weights()
    head = {name: value for name, value in state.items() if name.startswith("head.")}
    body = _named({name: value for name, value in state.items() if name not in head}, "backbone.")
    model = _saved(tmp_path / "w.pth", body | head | {"criterion.weight": torch.ones(5)})
    assert same(load(model), state)
    notes = "\n".join(_notes(model))
    assert "'backbone'" in notes
    assert "1 entries of other names are left out: criterion.weight" in notes
    with refuses(ModelError, key="model.checkpoint", value=["2 missing: head.weight, head.bias"]):
        load(_saved(tmp_path / "v.pth", body))


def test_numbers_of_numpy_and_options_beside_the_weights(tmp_path: Path) -> None:
    state = weights()
    beside = {"best": np.float64(81.2), "epoch": np.int64(3), "acc": np.float32(0.5), "args": argparse.Namespace(lr=1)}
    assert same(load(_saved(tmp_path / "w.pth", {"model": state, **beside})), state)


def test_other_pickles_come_with_a_recipe_that_works(tmp_path: Path) -> None:
    import shlex
    import subprocess
    import sys

    state = weights()
    model = _saved(tmp_path / "w.pth", {"model": state, "when": np.array(["a"], dtype=object)})
    with pytest.raises(ModelError) as caught:
        load(model)
    words = shlex.split(caught.value.problems[0].action)
    subprocess.run([sys.executable, *words[1:3]], check=True, cwd=tmp_path)
    assert same(load(config(checkpoint=str(tmp_path / "weights.safetensors"))), state)


def test_resampled_weights_are_said(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "w.safetensors")
    larger = config(
        kwargs={**TINY, "img_size": 64, "patch_size": 8}, input_size=64, checkpoint=str(tmp_path / "w.safetensors")
    )
    load(larger)
    (line,) = _notes(larger)
    assert "2 tensors are resampled" in line
    assert "pos_embed (1, 5, 24) -> (1, 65, 24)" in line
    assert "patch_embed.proj.weight" in line
    assert _notes(config(checkpoint=str(tmp_path / "w.safetensors"))) == []


def test_original_dinov2_with_registers(tmp_path: Path) -> None:
    """Its class token has a position, timm's has it added; its registers have another name."""
    model = config("vit_small_patch14_reg4_dinov2", {**TINY, "num_classes": 0})
    own = weights(model)
    position = torch.randn(1, 1, 24)
    original = {name: value for name, value in own.items() if name not in ("reg_token", "cls_token", "pos_embed")}
    original |= {"register_tokens": own["reg_token"], "mask_token": torch.zeros(1, 24)}
    original |= {"cls_token": own["cls_token"] - position, "pos_embed": torch.cat((position, own["pos_embed"]), 1)}
    torch.save({"teacher": _named(original, "backbone.")}, tmp_path / "w.pth")
    network = load(dataclasses.replace(model, checkpoint=str(tmp_path / "w.pth")))
    loaded = network.state_dict()
    assert loaded.keys() == own.keys()
    assert all(torch.allclose(loaded[name], own[name], atol=1e-6) for name in own)


def test_open_clips_image_tower(tmp_path: Path) -> None:
    state = weights()
    text = {"transformer.resblocks.0.ln_1.weight": torch.ones(8), "logit_scale": torch.ones(())}
    model = _saved(tmp_path / "w.bin", _named(state, "visual.trunk.") | text)
    assert same(load(model), state)
    assert any("visual.trunk" in line for line in _notes(model))
    assert any("logit_scale" in line for line in _notes(model))


def test_beits_positions_are_resampled(tmp_path: Path) -> None:
    kwargs = {**TINY, "patch_size": 8}
    small = config("beit_base_patch16_224", kwargs)
    state = weights(small)
    table = "blocks.0.attn.relative_position_bias_table"
    torch.save({"model": state | {"blocks.0.attn.relative_position_index": torch.zeros(1)}}, tmp_path / "w.pth")
    assert same(load(dataclasses.replace(small, checkpoint=str(tmp_path / "w.pth"))), state)
    large = config(
        "beit_base_patch16_224", {**kwargs, "img_size": 64}, input_size=64, checkpoint=str(tmp_path / "w.pth")
    )
    assert load(large).state_dict()[table].shape == (15 * 15 + 3, 2)
    (line,) = _notes(large)
    assert f"{table} (52, 2) -> (228, 2)" in line


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
