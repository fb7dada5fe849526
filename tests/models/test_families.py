"""One small instance of each class of networks: what every family promises."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.errors import refuses
from tests.models.families import CASES, FLOATS, POSITIONS, images, network
from tests.tiny import images as calibration_images
from tests.tiny import run
from vitq.config import KINDS, RunConfig
from vitq.deploy.onnx import products as integer_products
from vitq.deploy.onnx import qdq
from vitq.deploy.onnx.integer_model import integer_form
from vitq.deploy.packed.packed import load_packed, save_packed
from vitq.models.attention import AttentionTwin
from vitq.models.structure import structure_of
from vitq.quant.model import QuantizedModel
from vitq.quant.site_table import model_bytes
from vitq.steps import Workspace
from vitq.steps.fold_norm import bias_of, fold
from vitq.steps.orthogonal import mean_preserving
from vitq.steps.rotate import Edit, rotate_heads, rotate_stream

RECIPE: dict[str, Any] = {
    "kinds": {
        "weight": {"quantizer": "uniform", "granularity": "channel", "symmetric": True},
        "post_norm": {"quantizer": "uniform", "granularity": "channel"},
        "default": {"quantizer": "uniform", "granularity": "tensor"},
    },
    "steps": {
        "activations": {"do": "calibrate", "sites": "activations"},
        "fold": {"do": "reparameterize"},
        "weights": {"do": "calibrate", "sites": "weights"},
    },
}
cases = pytest.mark.parametrize("case", CASES)


@cases
@torch.no_grad()
def test_off_is_timm_and_its_segments_are_the_model(case: str) -> None:
    model = network(case)
    x = images(model)
    expected = model(x)
    assert (structure_of(copy.deepcopy(model)).model(x) - expected).abs().max() <= 1e-5
    quantized = QuantizedModel(model)
    assert (quantized(x) - expected).abs().max() <= 1e-5
    chained = x
    for segment in quantized.structure.segments:
        chained = segment.forward(chained)
    assert (chained - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (16, 64), (32, 48)])
@torch.no_grad()
def test_rotary_segments_are_the_model_for_images_of_another_size_or_refuse_them(size: tuple[int, int]) -> None:
    """8x8 patches of 32x32 images are 4x4; those of 16x64 are as many, but lie elsewhere."""
    quantized = QuantizedModel(network("dinov3"))
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    first, *others = quantized.structure.segments
    if size[0] != size[1]:
        with refuses(ValueError, key="model.kwargs.img_size", value=(size[0] // 8, size[1] // 8), valid=[(4, 4)]):
            first.forward(x)
        return
    chained = first.forward(x)
    for segment in others:
        chained = segment.forward(chained)
    assert (chained - quantized(x)).abs().max() <= 1e-5


@cases
def test_every_layer_and_every_operand_is_a_site(case: str) -> None:
    quantized = QuantizedModel(network(case))
    sites, attentions = quantized.sites, 0
    for name, module in quantized.model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not any(part in name.split(".") for part in POSITIONS):
            assert {f"{name}.weight", f"{name}.input"} <= set(sites), name
        if isinstance(module, AttentionTwin):
            attentions += 1
            operands = {f"{name}.scores.query", f"{name}.scores.key"}
            operands |= {f"{name}.context.{module.weights}", f"{name}.context.value"}
            assert operands <= set(sites), name
    assert attentions == len(quantized.structure.attentions) > 0
    kinds = {site.kind for site in sites.values()}
    assert kinds <= set(KINDS)
    assert {"weight", "query", "key", "probs", "value", "patch", "head"} <= kinds
    for site in sites.values():
        holders = [segment.name for segment in quantized.structure.segments if segment.holds(site.owner)]
        assert len(holders) == 1, f"{site.name} belongs to exactly one segment, not to {holders}"


@cases
@torch.no_grad()
def test_what_is_folded_changes_no_output(case: str) -> None:
    quantized = QuantizedModel(network(case)).double()
    links = quantized.structure.links
    assert bool(links) == CASES[case][2]
    x = images(quantized).double()
    expected, generator = quantized(x), torch.Generator().manual_seed(2)
    for link in links:
        norm = quantized.model.get_submodule(link.norm)
        layers: list[Any] = [quantized.model.get_submodule(name) for name in link.consumers]
        width = layers[0].in_features
        ratio = torch.exp(torch.randn(width, generator=generator).double())
        shift = torch.randn(width, generator=generator).double()
        fold(norm, layers, ratio, torch.zeros_like(shift) if link.padded or bias_of(norm) is None else shift)
    assert (quantized(x) - expected).abs().max() < 1e-9


@cases
@torch.no_grad()
def test_what_is_rotated_changes_no_output(case: str) -> None:
    model = network(case).double()
    x = images(model).double()
    expected = model(x)
    rotatable = structure_of(model).rotatable
    free = (
        any(not stream.fixed for stream in rotatable.streams),
        any(not head.fixed_qk for head in rotatable.heads),
        any(not head.fixed_vo for head in rotatable.heads),
    )
    assert free == CASES[case][3], [stream.fixed for stream in rotatable.streams]
    edit, generator = Edit(model), torch.Generator().manual_seed(3)
    for stream in rotatable.streams:
        if not stream.fixed:
            rotate_stream(edit, stream, mean_preserving(stream.width, generator, "random"))
    for head in rotatable.heads:
        random = [torch.linalg.qr(torch.randn(head.heads, head.size, head.size).double()).Q for _ in range(2)]
        rotate_heads(edit, head, None if head.fixed_qk else random[0], None if head.fixed_vo else random[1])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    edit.write()
    assert (model(x) - expected).abs().max() < 1e-9
    changed = any(not torch.equal(value, before.get(name, value + 1)) for name, value in model.state_dict().items())
    assert changed == any(free)


@cases
@torch.no_grad()
def test_packed_and_integer_forms_are_the_quantized_model(
    workspace: Callable[..., Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    name, kwargs, _, _ = CASES[case]
    model = network(case)
    size = model_bytes(model)
    work = workspace(model, RECIPE, images=8, weight=8, activation=8, image=8)
    plain = work.config.to_dict()
    plain["model"] |= {"name": name, "kwargs": kwargs, "pretrained": False}
    plain["data"]["num_classes"] = 7
    config, problems = RunConfig.parse(plain)
    assert config is not None, problems
    run(work, *RECIPE["steps"].values())
    x = calibration_images(work)[:4]
    expected = work.model(x)
    save_packed(work.model, config, size, tmp_path / "model.safetensors")
    packed = load_packed(tmp_path / "model.safetensors")
    assert torch.equal(packed.model(x), expected)
    integer, products = integer_form(packed.model)
    monkeypatch.setattr(qdq, "quantize", _quantized)
    for module in (qdq, integer_products):
        monkeypatch.setattr(module, "dequantize", _dequantized)
    # One float32 sum that is rounded otherwise may move a value to the next code.
    assert (integer(x) - expected).abs().max() <= 0.1 * expected.std()
    layers = set(packed.model.structure.inputs)
    matmuls = {f"{name}.{part}" for name in packed.model.structure.attentions for part in ("scores", "context")}
    assert {product.name for product in products} == layers | matmuls
    assert {product.name for product in products if product.reason is not None} == FLOATS.get(case, set())


def _quantized(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """What a runtime does at QuantizeLinear, which torch cannot run."""
    ends = torch.iinfo(zero.dtype)
    return (torch.round(x / scale) + zero).clamp(ends.min, ends.max)


def _dequantized(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, axis: int | None = None) -> torch.Tensor:
    if axis is not None:
        shape = [-1 if dimension == axis else 1 for dimension in range(codes.ndim)]
        scale, zero = scale.view(shape), zero.view(shape)
    return (codes.float() - zero.float()) * scale
