"""Checkpoints as labs have them."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.errors import refuses
from tests.models.test_load import DATA, TINY, config, load, same, weights
from vitq.config import ModelConfig
from vitq.errors import ModelError
from vitq.models.build import shell
from vitq.models.load import check_weights


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
