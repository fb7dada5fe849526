"""RepQ-ViT's reparameterization: lossless in full precision, and channel-wise codes become tensor-wise ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.tiny import run, tiny
from vitq.quant.uniform import UniformQuantizer
from vitq.steps import Workspace

CHANNELWISE = {
    "kinds": {
        "post_norm": {"quantizer": "uniform", "granularity": "channel", "options": {"include_zero": False}},
        "weight": {"quantizer": "uniform", "granularity": "channel"},
    }
}
ACTIVATIONS = {"do": "calibrate", "sites": "activations"}
REPARAMETERIZE = {"do": "reparameterize"}
Make = Callable[..., Workspace]

VARIANTS = {
    "vit": {},
    "vit without qkv bias": {"family": "vit", "qkv_bias": False},
    "vit with norms before proj and fc2": {"family": "vit", "scale_attn_norm": True, "scale_mlp_norm": True},
    "swin": {},
    "swin with padded windows": {"family": "swin", "window_size": 3},
}


def build(variant: str) -> torch.nn.Module:
    settings = dict(VARIANTS[variant])
    return tiny(str(settings.pop("family", variant)), **settings)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_full_precision_output_is_unchanged(workspace: Make, variant: str) -> None:
    model = build(variant)
    work = workspace(model, CHANNELWISE, activation=4)
    x = work.calib.x  # type: ignore[attr-defined]
    before = work.model(x)
    links = work.model.anatomy.links
    weights = {link.norm: model.get_submodule(link.norm).weight.clone() for link in links}
    run(work, ACTIVATIONS, REPARAMETERIZE)
    assert all(not torch.equal(weights[link.norm], model.get_submodule(link.norm).weight) for link in links)
    for link in links:
        for consumer in link.consumers:
            quantizer = work.model.sites[f"{consumer}.input"].quantizer
            assert isinstance(quantizer, UniformQuantizer) and quantizer.granularity == "tensor"
            assert float(quantizer.zero_point[0]).is_integer()
    work.model.switch(work.model.sites.values(), on=False)
    assert (work.model(x) - before).abs().max() < 1e-4


@torch.no_grad()
def test_tensor_wise_codes_afterwards_are_the_channel_wise_codes_before(workspace: Make) -> None:
    """code = round(x/s) + z = round(x̃/s̃) + z̃ for every element, where no clamping intervenes."""
    model = tiny("vit")
    work = workspace(model, CHANNELWISE, activation=6)
    run(work, ACTIVATIONS)
    norm, site = model.blocks[0].norm1, work.model.sites["blocks.0.attn.qkv.input"]  # type: ignore[union-attr,index]
    tokens = torch.randn(4, 17, 48, generator=torch.Generator().manual_seed(2))
    before = site.quantizer.encode(norm(tokens)) - site.quantizer.zero_point  # type: ignore[union-attr,operator]
    channel = site.quantizer
    run(work, REPARAMETERIZE)
    new = site.quantizer
    shift = channel.zero_point - new.zero_point  # type: ignore[union-attr,operator]
    x = norm(tokens)
    raw = torch.round(x / new.scale)  # type: ignore[union-attr]
    unclamped = (before + channel.zero_point > 0) & (before + channel.zero_point < 63)  # type: ignore[union-attr,operator]
    agree = (raw - shift == before) | ~unclamped
    # Rounding at exact ties may differ in float32.
    assert float(agree.double().mean()) > 0.9999


@torch.no_grad()
def test_a_constant_channel_stays_exact(workspace: Make) -> None:
    model = tiny("vit")
    norm = model.blocks[0].norm1  # type: ignore[union-attr,index]
    norm.weight.data[3], norm.bias.data[3] = 0, 1.7  # type: ignore[union-attr,index,operator]
    work = workspace(model, CHANNELWISE, activation=4)
    before = work.model(work.calib.x)  # type: ignore[attr-defined]
    run(work, ACTIVATIONS, REPARAMETERIZE)
    out = norm(torch.randn(2, 5, 48))
    assert float(out[..., 3].abs().max()) == 0, "the constant moved onto zero, into the next layer's bias"
    assert float(work.model.sites["blocks.0.attn.qkv.input"].quantizer(out)[..., 3].abs().max()) == 0  # type: ignore[misc]
    work.model.switch(work.model.sites.values(), on=False)
    assert (work.model(work.calib.x) - before).abs().max() < 1e-4  # type: ignore[attr-defined]


@torch.no_grad()
def test_it_helps_where_channels_differ(workspace: Make) -> None:
    """At 4 bits the reparameterized network is closer to full precision than tensor-wise post-LayerNorm is."""
    errors = {}
    for name, granularity in (("tensor", "tensor"), ("repq", "channel")):
        method = {"kinds": {"post_norm": {"quantizer": "uniform", "granularity": granularity, "options": {"include_zero": False}}}}
        work = workspace(tiny("vit"), method, activation=4)
        run(work, ACTIVATIONS, REPARAMETERIZE)
        x = work.calib.x  # type: ignore[attr-defined]
        quantized = work.model(x)
        work.model.switch(work.model.sites.values(), on=False)
        exact = work.model(x)
        errors[name] = float((quantized - exact).square().mean())
    assert errors["repq"] < 0.7 * errors["tensor"]


def test_order_and_missing_calibration_are_refused(workspace: Make) -> None:
    work = workspace(tiny("vit"), CHANNELWISE, activation=4)
    with pytest.raises(ValueError, match=r"blocks.0.attn.qkv.*calibrate them first"):
        run(work, REPARAMETERIZE)


def test_a_norm_whose_channels_are_all_constant_is_refused(workspace: Make) -> None:
    model = tiny("vit")
    model.blocks[0].norm1.weight.data.zero_()  # type: ignore[union-attr,index,operator]
    work = workspace(model, CHANNELWISE, activation=4)
    run(work, ACTIVATIONS)
    with pytest.raises(ValueError, match="every output channel of blocks.0.norm1 is constant"):
        run(work, REPARAMETERIZE)
