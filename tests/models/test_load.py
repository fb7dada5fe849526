"""Weights: from a file, from the hub, and every way in which they can be wrong."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tests.errors import refuses
from vitq.config import DataConfig, ModelConfig
from vitq.errors import ModelError
from vitq.models.load import create, identify, load_model
from vitq.progress import Progress

TINY: dict[str, Any] = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2}
SWIN: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [1, 2],
    "window_size": 4,
}
DATA = DataConfig(name="d", num_classes=5)


def config(name: str = "vit_tiny_patch16_224", kwargs: dict[str, Any] | None = None, **rest: Any) -> ModelConfig:
    return ModelConfig(**{"name": name, "kwargs": TINY if kwargs is None else kwargs, "input_size": 32, **rest})


def load(model: ModelConfig, data: DataConfig = DATA) -> nn.Module:
    return load_model(model, data, "unused", Progress())


def weights(model: ModelConfig | None = None, seed: int = 3) -> dict[str, torch.Tensor]:
    return create(model or config(), DATA, seed=seed).state_dict()


def same(network: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    own = network.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


def test_safetensors(tmp_path: Path) -> None:
    state = weights()
    save_file(state, tmp_path / "w.safetensors")
    network = load(config(checkpoint=str(tmp_path / "w.safetensors")))
    assert same(network, state)
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("under", [None, "model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pth(tmp_path: Path, under: str | None, prefix: str) -> None:
    state = weights()
    named: dict[str, Any] = {prefix + name: value for name, value in state.items()}
    torch.save({under: named, "epoch": 3} if under else named, tmp_path / "w.pth")
    assert same(load(config(checkpoint=str(tmp_path / "w.pth"))), state)


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    save_file({name: value.half() for name, value in weights().items()}, tmp_path / "w.safetensors")
    network = load(config(checkpoint=str(tmp_path / "w.safetensors")))
    assert network.state_dict()["head.bias"].dtype == torch.float32


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    flag = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (flag.write_text, ("x",))

    torch.save({"model": Evil()}, tmp_path / "w.pth")
    with refuses(ModelError, key="model.checkpoint", value=str(tmp_path / "w.pth")):
        load(config(checkpoint=str(tmp_path / "w.pth")))
    assert not flag.exists()


@pytest.mark.parametrize(
    ("name", "content"), [("w.safetensors", b"abc"), ("w.pth", b"abc"), ("w.safetensors", b""), ("w.pth", b"")]
)
def test_broken_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with refuses(ModelError, key="model.checkpoint", value=str(tmp_path / name)):
        load(config(checkpoint=str(tmp_path / name)))


def test_a_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pth")
    with refuses(ModelError, key="model.checkpoint", value=["epoch", "lr"]):
        load(config(checkpoint=str(tmp_path / "w.pth")))


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = weights()
    del state["blocks.0.norm1.weight"]
    state["blocks.7.extra"] = torch.zeros(1)
    state["head.weight"] = torch.zeros(9, 24)
    save_file(state, tmp_path / "w.safetensors")
    wrong = [
        "1 missing: blocks.0.norm1.weight",
        "1 unexpected: blocks.7.extra",
        "1 other shape: head.weight (9, 24) instead of (5, 24)",
    ]
    with refuses(ModelError, key="model.checkpoint", value=wrong):
        load(config(checkpoint=str(tmp_path / "w.safetensors")))


def test_weights_of_another_family(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "w.safetensors")
    with refuses(ModelError, key="model.checkpoint"):
        load(config("swin_tiny_patch4_window7_224", SWIN, checkpoint=str(tmp_path / "w.safetensors")))


def test_an_older_swin_file_passes_through_timms_filter(tmp_path: Path) -> None:
    model = config("swin_tiny_patch4_window7_224", SWIN)
    state = weights(model)
    old = {name.replace("layers.1.downsample", "layers.0.downsample"): value for name, value in state.items()}
    old["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    old = {name.replace("head.fc", "head"): value for name, value in old.items()}
    torch.save({"model": old}, tmp_path / "w.pth")
    assert same(load(dataclasses.replace(model, checkpoint=str(tmp_path / "w.pth"))), state)


def test_identity_is_the_content(tmp_path: Path) -> None:
    save_file(weights(seed=1), tmp_path / "a.safetensors")
    save_file(weights(seed=1), tmp_path / "b.safetensors")
    save_file(weights(seed=2), tmp_path / "c.safetensors")
    a, b, c = (identify(config(checkpoint=str(tmp_path / f"{n}.safetensors"))).weights for n in "abc")
    assert a == b != c
    assert a is not None
    assert len(a) == 64
    (tmp_path / "c.safetensors").rename(tmp_path / "a.safetensors")
    assert identify(config(checkpoint=str(tmp_path / "a.safetensors"))).weights == c


def test_a_checkpoint_that_changed_since_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(weights(seed=1), path)
    planned = identify(config(checkpoint=str(path)))
    assert same(load(planned), weights(seed=1))
    save_file(weights(seed=2), path)
    with refuses(ModelError, key="model.weights", value=planned.weights):
        load(planned)


@pytest.mark.parametrize(
    ("changes", "key", "value", "valid"),
    [
        ({"checkpoint": "/nowhere/w.pth"}, "model.checkpoint", "/nowhere/w.pth", []),
        ({"checkpoint": "/nowhere/w.npz"}, "model.checkpoint", "/nowhere/w.npz", [".safetensors"]),
        ({"name": "deit_tiny_patch16_224"}, "model.name", "deit_tiny_patch16_224", []),
        ({"name": "vit_digits"}, "model.train", None, []),
    ],
)
def test_what_identify_refuses(changes: dict[str, Any], key: str, value: object, valid: list[str]) -> None:
    with refuses(ModelError, key=key, value=value, valid=valid):
        identify(config(**changes))


def test_a_pinned_tag_is_its_own_identity() -> None:
    model = config("deit_tiny_patch16_224.fb_in1k", {})
    assert identify(dataclasses.replace(model, weights="stale")).weights is None


def test_no_network_names_model_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = config("deit_tiny_patch16_224.fb_in1k", {}, input_size=224)
    with refuses(ModelError, key="model.checkpoint", value=None):
        load(model, DataConfig(name="d", num_classes=1000))


def test_connection_errors_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    def refuse(*_: object, **__: object) -> nn.Module:
        raise httpx.ConnectError("no route to host")

    monkeypatch.setattr(timm, "create_model", refuse)
    with refuses(ModelError, key="model.checkpoint", value=None) as raised:
        load(config("deit_tiny_patch16_224.fb_in1k", {}, input_size=224), DataConfig(name="d"))
    assert isinstance(raised.value.__cause__, httpx.ConnectError)


def test_a_random_head_is_never_put_on_pretrained_weights() -> None:
    with refuses(ModelError, key="data.num_classes", value=5, valid=[1000]):
        load(config("deit_tiny_patch16_224.fb_in1k", {}, input_size=224))


@pytest.mark.parametrize(
    ("changes", "key", "value", "valid"),
    [
        ({"name": "deit_tinny_patch16_224"}, "model.name", "deit_tinny_patch16_224", ["deit_tiny_patch16_224"]),
        ({"kwargs": {"colour": "red"}}, "model.kwargs", {"colour": "red"}, []),
        (
            {"name": "vit_tiny_patch16_224.nope"},
            "model.name",
            "vit_tiny_patch16_224.nope",
            ["vit_tiny_patch16_224.augreg_in21k"],
        ),
        ({"input_size": 64}, "model.input_size", 64, [32]),
    ],
)
def test_what_cannot_be_built(changes: dict[str, Any], key: str, value: object, valid: list[object]) -> None:
    with refuses(ModelError, key=key, value=value, valid=valid):
        create(config(**changes), DATA)


def test_random_weights_are_always_the_same_and_global_generators_are_left_alone() -> None:
    state = torch.get_rng_state(), random.getstate()
    first = load(config(pretrained=False))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    torch.manual_seed(7)
    assert same(load(config(pretrained=False)), first.state_dict())


def test_dropout_and_drop_path_are_off_even_in_training_mode() -> None:
    kwargs = {**TINY, "depth": 3, "drop_path_rate": 0.5, "proj_drop_rate": 0.5, "attn_drop_rate": 0.5, "drop_rate": 0.5}
    network = create(config(kwargs=kwargs), DATA).train()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x), network(x))


def test_number_of_classes() -> None:
    assert create(config(), DATA)(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert create(config(kwargs={**TINY, "num_classes": 7}), DATA)(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_distilled_patch16_224",
        "vit_little_patch16_reg4_gap_256",
        "vit_medium_patch16_gap_240",
        "vit_wee_patch16_reg1_gap_256",
        "swin_tiny_patch4_window7_224",
    ],
)
def test_a_file_of_every_kind_of_vit_loads_strictly(tmp_path: Path, name: str) -> None:
    size = int(name[-3:])
    model = config(name, {}, input_size=size)
    state = weights(model)
    save_file(state, tmp_path / "w.safetensors")
    assert same(load(dataclasses.replace(model, checkpoint=str(tmp_path / "w.safetensors"))), state)
