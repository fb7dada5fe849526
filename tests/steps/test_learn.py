"""What a stage learns in a segment: which tensors, and by how much the gradients of scales are divided."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.tiny import run, tiny, uniform
from vitq.steps import Workspace
from vitq.steps.reconstruction.learn import Learnt

Make = Callable[..., Workspace]
METHOD = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}


@pytest.mark.parametrize(("learn", "learned"), [("weights", True), ("bias", False)])
def test_swins_table_of_positions_is_learned_with_the_weights(workspace: Make, learn: str, learned: bool) -> None:
    work = workspace(tiny("swin"), METHOD, images=8, weight=4, activation=4)
    run(work, {"do": "calibrate"})
    named = work.model.model.named_parameters()
    tables = {name: table for name, table in named if name.endswith("relative_position_bias_table")}
    before = {name: table.detach().clone() for name, table in tables.items()}
    assert len(before) == 4
    run(work, {"do": "reconstruct", "learn": [learn], "iterations": 2, "batch_size": 8, "lr": 1e-3})
    for name, table in tables.items():
        assert torch.equal(table, before[name]) is not learned, name


@pytest.mark.parametrize("part", ["weight_scales", "activation_scales"])
def test_scales_are_divided_by_their_weights_or_by_the_features_of_one_image(workspace: Make, part: str) -> None:
    """LSQ, section 2.2: g = 1/√(n·(2^b − 1)); a weight's rows are output channels, and no images."""
    work = workspace(tiny("vit"), METHOD, images=8, weight=3, activation=4)
    run(work, {"do": "calibrate"})
    segment = work.model.structure.segments[1]
    sites = [site for site in work.model.quantized() if segment.holds(site.owner)]
    name = "blocks.0.mlp.fc1"
    weight = work.model.layer(work.model.sites[f"{name}.weight"]).weight.detach()
    if part == "weight_scales":
        site, x, n, steps = f"{name}.weight", weight, weight.shape[1], 7
    else:
        x = torch.randn(8, 17, 48, generator=torch.Generator().manual_seed(0))
        site, n, steps = f"{name}.input", 17 * 48, 15
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    with Learnt(work.model, segment, sites, [part]):
        quantizer, learned = uniform(work, site), work.model.sites[site].stand_in
        assert learned is not None
        (learned(x) * upstream).sum().backward()
        gradient = quantizer.scale.grad
    assert gradient is not None
    scale, zero = (value.detach().double() for value in (quantizer.scale, quantizer.zero_point))
    if part == "weight_scales":
        scale, zero = scale.unsqueeze(1), zero.unsqueeze(1)
    ratio = x.double() / scale
    code = torch.round(ratio) + zero
    inside = (code >= 0) & (code <= steps)
    slope = torch.where(inside, code - zero - ratio, code.clamp(0, steps) - zero) * upstream
    expected = (slope.sum(1) if part == "weight_scales" else slope.sum().view(1)) / (n * steps) ** 0.5
    assert torch.allclose(gradient.double(), expected, rtol=1e-3, atol=1e-4)
