"""RepQ-ViT's reparameterization: lossless in full precision, and channel-wise codes become tensor-wise ones."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from timm.layers import SwiGLU

from tests.errors import is_about, refuses
from tests.tiny import images, part, run, tiny, uniform
from vitq.steps import Workspace
from vitq.steps.reparameterize import Reparameterize
from vitq.steps.step import parse_step

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
    x = images(work)
    before = work.model(x)
    links = work.model.structure.links
    weights = {link.norm: part(model, link.norm).weight.clone() for link in links}
    run(work, ACTIVATIONS, REPARAMETERIZE)
    assert all(not torch.equal(weights[link.norm], part(model, link.norm).weight) for link in links)
    for link in links:
        for consumer in link.consumers:
            quantizer = uniform(work, f"{consumer}.input")
            assert quantizer.granularity == "tensor"
            assert float(quantizer.zero_point[0]).is_integer()
    work.model.switch(work.model.sites.values(), on=False)
    assert (work.model(x) - before).abs().max() < 1e-4


@torch.no_grad()
def test_tensor_wise_codes_afterwards_are_the_channel_wise_codes_before(workspace: Make) -> None:
    """code = round(x/s) + z = round(x̃/s̃) + z̃ for every element, where no clamping intervenes."""
    model = tiny("vit")
    work = workspace(model, CHANNELWISE, activation=6)
    run(work, ACTIVATIONS)
    norm, site = part(model, "blocks.0.norm1"), "blocks.0.attn.qkv.input"
    tokens = torch.randn(4, 17, 48, generator=torch.Generator().manual_seed(2))
    channel = uniform(work, site)
    before = channel.encode(norm(tokens))
    run(work, REPARAMETERIZE)
    new = uniform(work, site)
    after = torch.round(norm(tokens) / new.scale) + new.zero_point
    clamped = (before == 0) | (before == 63)
    # Rounding at exact ties may differ in float32.
    assert float(((after == before) | clamped).double().mean()) > 0.9999
    assert float(clamped.double().mean()) < 0.2


@torch.no_grad()
def test_a_constant_channel_stays_exact(workspace: Make) -> None:
    model = tiny("vit")
    norm = part(model, "blocks.0.norm1")
    norm.weight.data[3], norm.bias.data[3] = 0, 1.7
    work = workspace(model, CHANNELWISE, activation=4)
    before = work.model(images(work))
    run(work, ACTIVATIONS, REPARAMETERIZE)
    out = norm(torch.randn(2, 5, 48))
    assert float(out[..., 3].abs().max()) == 0, "the constant moved onto zero, into the next layer's bias"
    assert float(uniform(work, "blocks.0.attn.qkv.input")(out)[..., 3].abs().max()) == 0
    work.model.switch(work.model.sites.values(), on=False)
    assert (work.model(images(work)) - before).abs().max() < 1e-4


@torch.no_grad()
def test_a_constant_channel_is_covered_where_no_shift_can_be_folded(workspace: Make) -> None:
    model = build("swin with padded windows")
    norm = part(model, "layers.0.blocks.0.norm1")
    norm.weight.data[3], norm.bias.data[3] = 0, 30.0
    work = workspace(model, CHANNELWISE, activation=8)
    assert any(link.padded and link.norm == "layers.0.blocks.0.norm1" for link in work.model.structure.links)
    run(work, ACTIVATIONS, REPARAMETERIZE)
    quantizer = uniform(work, "layers.0.blocks.0.attn.qkv.input")
    out = norm(torch.randn(2, 5, 16))[..., 3:4]
    assert float((quantizer(out) - out).abs().max()) <= float(quantizer.scale) / 2


@torch.no_grad()
def test_one_range_covers_all_channels_and_no_more_where_zeros_are_padded(workspace: Make) -> None:
    """From the lowest end of a channel's range, once scales are evened out, to the highest."""
    work = workspace(build("swin with padded windows"), CHANNELWISE, activation=8)
    run(work, ACTIVATIONS)
    padded = [name for link in work.model.structure.links if link.padded for name in link.consumers]
    assert padded
    sites = {name: f"{name}.input" for name in padded}
    ends = {}
    for name, site in sites.items():
        quantizer = uniform(work, site)
        even = quantizer.levels() / (quantizer.scale / quantizer.scale.mean()).unsqueeze(1)
        ends[name] = float(even[:, 0].min()), float(even[:, -1].max())
    run(work, REPARAMETERIZE)
    for name, (low, high) in ends.items():
        levels, step = uniform(work, sites[name]).levels()[0], float(uniform(work, sites[name]).scale)
        # Zero is a code: the range is moved by less than a step.
        assert float(levels[0]) <= low + step, name
        assert float(levels[-1]) >= high - step, name
        assert float(levels[-1] - levels[0]) == pytest.approx(high - low, rel=1e-4), name


@torch.no_grad()
def test_it_helps_where_channels_differ(workspace: Make) -> None:
    """At 4 bits the reparameterized network is closer to full precision than tensor-wise post-LayerNorm is."""
    errors = {}
    for name, granularity in (("tensor", "tensor"), ("repq", "channel")):
        method = {
            "kinds": {
                "post_norm": {"quantizer": "uniform", "granularity": granularity, "options": {"include_zero": False}}
            }
        }
        work = workspace(tiny("vit"), method, activation=4)
        run(work, ACTIVATIONS, REPARAMETERIZE)
        x = images(work)
        quantized = work.model(x)
        work.model.switch(work.model.sites.values(), on=False)
        exact = work.model(x)
        errors[name] = float((quantized - exact).square().mean())
    assert errors["repq"] < 0.7 * errors["tensor"]


def test_order_and_missing_calibration_are_refused(workspace: Make) -> None:
    work = workspace(tiny("vit"), CHANNELWISE, activation=4)
    with refuses(ValueError, key="inputs", value=("blocks.0.attn.qkv",)):
        run(work, REPARAMETERIZE)


def test_a_norm_whose_channels_are_all_constant_is_refused(workspace: Make) -> None:
    model = tiny("vit")
    part(model, "blocks.0.norm1").weight.data.zero_()
    work = workspace(model, CHANNELWISE, activation=4)
    run(work, ACTIVATIONS)
    with refuses(ValueError, key="norm", value="blocks.0.norm1"):
        run(work, REPARAMETERIZE)


def test_a_mean_zero_point_is_public_codes_one_and_survives_learning(workspace: Make) -> None:
    """2^b + 1 levels: whole steps from zero, and half ones where the range ends; the function stays lossless."""
    work = workspace(tiny("vit"), CHANNELWISE, activation=3)
    with torch.no_grad():
        before = work.model(images(work))
    run(work, ACTIVATIONS)
    site = "blocks.0.attn.qkv.input"
    channel = uniform(work, site)
    run(work, {**REPARAMETERIZE, "zero_point": "mean"})
    zero = channel.zero_point.mean()
    assert not float(zero).is_integer(), "or the choice would not matter here"
    work.model.switch(work.model.sites.values(), on=False)
    with torch.no_grad():
        assert (work.model(images(work)) - before).abs().max() < 1e-4
    learnt = {"do": "reconstruct", "quantize": ["activations"], "iterations": 1, "batch_size": 2, "compile": "off"}
    run(work, learnt)
    quantizer = uniform(work, site)
    assert float(quantizer.zero_point[0]) == pytest.approx(float(zero))
    scale, zero = quantizer.scale.double(), quantizer.zero_point.double()
    x = torch.linspace(-10, 10, 4001).view(1, -1, 1) * quantizer.scale
    expected = ((x.double() / scale).round() + zero).clamp(0, 7).sub(zero) * scale
    found = quantizer(x)
    # x / s is a tie in float64 where float32 rounds it away.
    assert float(torch.isclose(found.double(), expected, rtol=1e-5).double().mean()) > 0.995
    assert len(found.unique()) == 9
    with refuses(ValueError, key="zero_point", value=float(quantizer.zero_point[0]), valid=["integer"]):
        quantizer.encode(x)


@pytest.mark.parametrize("family", ["vit", "swin", "swin with padded windows"])
@torch.no_grad()
def test_a_nearly_constant_channel_harms_no_other(workspace: Make, family: str) -> None:
    """Its zero point lies 10^3 to 10^7 codes off: in the mean it would be every other channel's offset."""
    weights = {"do": "calibrate", "sites": "weights"}
    errors = {}
    for slope in (0.0, 1e-3, 1e-6):
        work = workspace(build(family), CHANNELWISE, weight=8, activation=8)
        for link in work.model.structure.links:
            norm = part(work.model.model, link.norm)
            norm.weight[4], norm.bias[4] = slope, 2.0
        before = work.model(images(work))
        run(work, ACTIVATIONS, REPARAMETERIZE, weights)
        errors[slope] = float((work.model(images(work)) - before).square().mean())
        work.model.switch(work.model.sites.values(), on=False)
        assert (work.model(images(work)) - before).abs().max() < 1e-4
    assert errors[1e-3] < 1.5 * errors[0.0]
    assert errors[1e-6] < 1.5 * errors[0.0]


@pytest.mark.parametrize("exact", ["fc1_g", "fc1_x"])
@torch.no_grad()
def test_of_two_layers_behind_a_norm_one_may_stay_in_floating_point(workspace: Make, exact: str) -> None:
    other = {"fc1_g": "fc1_x", "fc1_x": "fc1_g"}[exact]
    sites = {f"blocks.0.mlp.{exact}.input": "fp"}
    work = workspace(tiny("vit", mlp_layer=SwiGLU), CHANNELWISE, activation=4, sites=sites)
    before = work.model(images(work))
    run(work, ACTIVATIONS, REPARAMETERIZE)
    assert uniform(work, f"blocks.0.mlp.{other}.input").granularity == "tensor"
    assert work.model.sites[f"blocks.0.mlp.{exact}.input"].quantizer is None
    work.model.switch(work.model.sites.values(), on=False)
    assert (work.model(images(work)) - before).abs().max() < 1e-4


def test_two_layers_behind_a_norm_need_one_bit_width(workspace: Make) -> None:
    sites = {"blocks.0.mlp.fc1_x.input": 6}
    work = workspace(tiny("vit", mlp_layer=SwiGLU), CHANNELWISE, activation=4, sites=sites)
    step, _ = parse_step("fold", REPARAMETERIZE)
    assert isinstance(step, Reparameterize)
    (problem,) = step.check_network(SimpleNamespace(model=work.model))  # type: ignore[arg-type]
    assert is_about(problem, "", [4, 6])
    run(work, ACTIVATIONS)
    with refuses(ValueError, value=[4, 6]):
        run(work, REPARAMETERIZE)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_token_positions_may_have_ranges_of_their_own_afterwards(workspace: Make, family: str) -> None:
    """What is folded is the same; a calibrate step behind fits the positions, whose errors are less."""
    errors = {}
    for granularity in ("tensor", "token"):
        work = workspace(tiny(family), CHANNELWISE, activation=4)
        with torch.no_grad():
            before = work.model(images(work))
        run(work, ACTIVATIONS, REPARAMETERIZE | {"granularity": granularity})
        run(work, ACTIVATIONS | {"kinds": ["post_norm"]})
        sites = [work.model.sites[f"{name}.input"] for link in work.model.structure.links for name in link.consumers]
        assert {site.quantizer.granularity for site in sites if site.quantizer is not None} == {granularity}
        work.model.switch(sites, on=True)
        with torch.no_grad():
            errors[granularity] = float((work.model(images(work)) - before).square().mean())
            work.model.switch(work.model.sites.values(), on=False)
            assert (work.model(images(work)) - before).abs().max() < 1e-4
    assert errors["token"] < errors["tensor"]


def test_token_positions_need_a_step_that_fits_them(workspace: Make) -> None:
    (fold, _), (fit, _) = (parse_step("x", raw) for raw in (REPARAMETERIZE | {"granularity": "token"}, ACTIVATIONS))
    assert fold is not None
    assert fit is not None
    (problem,) = fold.check_order([fit], [])
    assert is_about(problem, key="granularity", value="token", valid=["tensor"])
    assert fold.check_order([fit], [fit]) == []
