"""Packed checkpoints: bit for bit the simulated model, and a clear error for everything else."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from tests.errors import refuses
from tests.tiny import images, run, tiny
from vitq.config import RunConfig, canonical
from vitq.deploy.packed.container import compressed
from vitq.deploy.packed.packed import load_packed, save_packed
from vitq.errors import DeployError
from vitq.methods.adalog import AdaLogQuantizer
from vitq.methods.output_search import gelu_logarithm
from vitq.quant.site_table import model_bytes, quantized_bytes
from vitq.quant.uniform import UniformQuantizer
from vitq.steps import Workspace

CONF = Path(__file__).resolve().parents[2] / "conf"
VIT = {"depth": 2, "img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3, "num_classes": 5}
SWIN = {"depths": [2, 2], "num_heads": [2, 4], "embed_dim": 16, "img_size": 32, "window_size": 4, "patch_size": 4}
Make = Callable[..., Workspace]


def recipe(name: str) -> dict[str, Any]:
    """A shipped recipe without what takes long."""
    raw: dict[str, Any] = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())
    if "base" in raw:
        base = recipe(raw.pop("base"))
        raw |= {"kinds": base["kinds"] | raw["kinds"], "steps": base["steps"] | raw["steps"]}
    raw["iterations"] = 2
    return raw


def quantized(workspace: Make, family: str, method: dict[str, Any], **bits: Any) -> tuple[Workspace, RunConfig]:
    """A tiny model with a recipe applied, and a config that builds the same architecture."""
    work = workspace(tiny(family), method, images=16, **bits)
    name, kwargs = ("vit_tiny_patch16_224", VIT) if family == "vit" else ("swin_tiny_patch4_window7_224", SWIN)
    plain = work.config.to_dict()
    plain["model"] |= {"name": name, "kwargs": kwargs, "pretrained": False}
    plain["data"]["num_classes"] = 5
    config, problems = RunConfig.parse(plain)
    assert config is not None, problems
    work.config = config
    run(work, *method["steps"].values())
    return work, config


def logits(model: torch.nn.Module, work: Workspace) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(images(work))
    return out


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("repq_vit", {"weight": 4, "activation": 4}),
        ("minmax", {"weight": 2, "activation": 8, "image": 8, "sites": {"head.*weight": 7, "*.fc1.weight": 3}}),
        ("mptq_vit_full", {"weight": 5, "activation": 8}),
        ("fq_vit", {"weight": 8, "activation": 8}),
        ("adalog", {"weight": 3, "activation": 4}),
        ("aocq", {"weight": 6, "activation": 6}),
        ("erq", {"weight": 3, "activation": 4}),
        ("ias_vit", {"weight": 4, "activation": 4, "kinds": {"probs": "fp"}}),
        ("fima_q", {"weight": 3, "activation": 3}),
        ("aphq_vit", {"weight": 4, "activation": 4}),
    ],
)
def test_loads_back_bit_for_bit(workspace: Make, tmp_path: Path, family: str, name: str, bits: dict[str, Any]) -> None:
    work, config = quantized(workspace, family, recipe(name), **bits)
    float_bytes = model_bytes(tiny(family))
    size = save_packed(work.model, config, float_bytes, tmp_path / "model.safetensors")
    packed = load_packed(tmp_path / "model.safetensors")
    assert torch.equal(logits(packed.model, work), logits(work.model, work))
    assert canonical(packed.config) == canonical(config)
    assert packed.float_bytes == float_bytes
    assert packed.file_bytes == size == (tmp_path / "model.safetensors").stat().st_size
    (tmp_path / "small.safetensors").write_bytes(compressed(tmp_path / "model.safetensors"))
    small = load_packed(tmp_path / "small.safetensors")
    assert torch.equal(logits(small.model, work), logits(work.model, work))
    assert small.config == packed.config
    assert small.float_bytes == float_bytes
    assert small.file_bytes < size
    # What result.json counts, in the file: all but its header. Zero points may take two bytes, a factor of ptf four.
    payload = size - 8 - struct.unpack("<Q", (tmp_path / "model.safetensors").read_bytes()[:8])[0]
    counted = quantized_bytes(work.model, model_bytes(work.model.model))
    assert payload == pytest.approx(counted, rel=0.03)


def test_sites_of_one_kind_may_have_quantizers_of_two_classes(workspace: Make, tmp_path: Path) -> None:
    """What `output_search.gelu_codes=search` leaves behind."""
    work, config = quantized(workspace, "vit", recipe("minmax"), weight=4, activation=4)
    site = work.model.sites["blocks.0.mlp.fc2.input"]
    assert isinstance(site.quantizer, UniformQuantizer)
    site.quantizer = gelu_logarithm(site.quantizer, torch.rand(1, 8))
    path = tmp_path / "model.safetensors"
    save_packed(work.model, config, 1, path)
    packed = load_packed(path).model
    assert type(packed.sites["blocks.0.mlp.fc2.input"].quantizer) is AdaLogQuantizer
    assert type(packed.sites["blocks.1.mlp.fc2.input"].quantizer) is UniformQuantizer
    assert torch.equal(logits(packed, work), logits(work.model, work))


def test_allocated_widths_are_the_file_s(workspace: Make, tmp_path: Path) -> None:
    method = recipe("mixed_precision")
    work, config = quantized(workspace, "vit", method, weight=4, activation=4)
    path = tmp_path / "model.safetensors"
    save_packed(work.model, config, model_bytes(tiny("vit")), path)
    widths = {site.quantizer.bits for site in work.model.quantized() if site.is_weight and site.quantizer}
    assert len(widths) > 1
    with safe_open(path, framework="pt") as file:
        for site in work.model.quantized():
            if site.is_weight and site.quantizer is not None:
                elements = work.model.layer(site).weight.numel()
                assert file.get_tensor(site.name).numel() == -(-elements * site.quantizer.bits // 8)
    assert torch.equal(logits(load_packed(path).model, work), logits(work.model, work))


@pytest.fixture
def packed(workspace: Make, tmp_path: Path) -> Path:
    work, config = quantized(workspace, "vit", recipe("minmax"), weight=4, activation=8)
    save_packed(work.model, config, model_bytes(tiny("vit")), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture(params=["plain", "compressed"])
def either(packed: Path, request: pytest.FixtureRequest) -> Path:
    if request.param == "compressed":
        packed.write_bytes(compressed(packed))
    return packed


def test_the_compressed_form_of_a_compressed_form_is_itself(packed: Path) -> None:
    small = compressed(packed)
    packed.write_bytes(small)
    assert compressed(packed) == small


@pytest.mark.parametrize("kept", [0, 5, 2000, -1])
def test_a_truncated_file(either: Path, kept: int) -> None:
    packed = either
    packed.write_bytes(packed.read_bytes()[:kept])
    with refuses(DeployError, key="safetensors"):
        load_packed(packed)


def test_a_flipped_bit_anywhere_is_noticed(either: Path) -> None:
    packed = either
    data = packed.read_bytes()
    for place in range(8, len(data), len(data) // 50):
        packed.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(DeployError):
            load_packed(packed)


def rewrite(packed: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the JSON header."""
    with safe_open(packed, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    whole = json.loads(metadata["vitq"])
    change(whole["header"])
    save_file(tensors, packed, {"vitq": json.dumps(whole)})


def test_a_newer_layout(packed: Path) -> None:
    rewrite(packed, lambda header: header.update(version=3, novelty=True))
    with refuses(DeployError, key="version", value=3, valid=[1, 2]):
        load_packed(packed)


def test_a_file_from_before_a_field_was_added(packed: Path, workspace: Make) -> None:
    """A header without a field that has a default since: its sha256 is of the text that it has."""
    from vitq.deploy.packed.container import digest

    def drop(whole: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        for spec in whole["header"]["quantizers"]:
            del spec["second"]
        whole["sha256"] = digest(json.dumps(whole["header"], separators=(",", ":")), tensors)

    with safe_open(packed, framework="pt") as file:
        whole = json.loads(file.metadata()["vitq"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    before = load_packed(packed).signature
    drop(whole, tensors)
    save_file(tensors, packed, {"vitq": json.dumps(whole)})
    assert load_packed(packed).signature == before


def test_an_edited_header(packed: Path) -> None:
    rewrite(packed, lambda header: header.update(float_bytes=1))
    with refuses(DeployError, key="sha256"):
        load_packed(packed)


def test_another_architecture(workspace: Make, tmp_path: Path) -> None:
    work, config = quantized(workspace, "vit", recipe("minmax"), weight=4, activation=8)
    plain = config.to_dict()
    for kwargs in ({"depth": 3}, {"embed_dim": 96}):
        plain["model"]["kwargs"] = VIT | kwargs
        other, _ = RunConfig.parse(plain)
        assert other is not None
        save_packed(work.model, other, 1, tmp_path / "model.safetensors")
        with refuses(DeployError, key="model.name", value="vit_tiny_patch16_224"):
            load_packed(tmp_path / "model.safetensors")


def test_other_files(tmp_path: Path) -> None:
    with refuses(DeployError, key="path"):
        load_packed(tmp_path / "missing.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with refuses(DeployError, key="vitq", value=[]):
        load_packed(tmp_path / "weights.safetensors")


def test_ranges_of_each_image_are_refused(workspace: Make, tmp_path: Path) -> None:
    method = recipe("minmax")
    method["steps"]["predict"] = {"do": "predict_scales"}
    work, config = quantized(workspace, "vit", method, weight=4, activation=8)
    with refuses(DeployError, key="site"):
        save_packed(work.model, config, 1, tmp_path / "model.safetensors")
