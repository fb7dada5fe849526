"""Calibration: the whole set counts, in bounded memory, with an order-free and repeatable result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.errors import refuses
from tests.tiny import Images, images, part, run, tiny, uniform
from vitq.steps import Workspace

UNIFORM = {"kinds": {"default": {"quantizer": "uniform", "range": "minmax"}}}
ALL = {"do": "calibrate", "sites": "all"}
Make = Callable[..., Workspace]


def scales(work: Workspace) -> dict[str, torch.Tensor]:
    return {s.name: uniform(work, s.name).scale for s in work.model.quantized()}


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_ranges_are_those_of_all_images(workspace: Make, family: str) -> None:
    """The reference keeps every activation of every image; the engine streams them."""
    work = workspace(tiny(family), UNIFORM, images=20)
    run(work, ALL)
    assert isinstance(work.calib, Images)
    assert work.calib.served == 20
    reference = tiny(family)
    seen: dict[str, list[torch.Tensor]] = {}
    for name, module in reference.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _m, args, name=name: seen.setdefault(name, []).append(args[0]))
    with torch.no_grad():
        reference(images(work))
    assert seen
    for name, tensors in seen.items():
        x = torch.cat([t.flatten() for t in tensors])
        expected = (x.max().clamp(min=0) - x.min().clamp(max=0)) / 255
        assert float(uniform(work, f"{name}.input").scale[0]) == pytest.approx(float(expected), rel=1e-4), name


@pytest.mark.parametrize("input_", ["fp", "quantized"])
def test_the_batch_size_does_not_matter(workspace: Make, input_: str) -> None:
    found = []
    for size in (5, 20):
        work = workspace(tiny("vit"), UNIFORM, images=20, weight=4, activation=4)
        object.__setattr__(work.config.calib, "batch_size", size)
        run(work, {**ALL, "input": input_})
        found.append(scales(work))
    for name, scale in found[0].items():
        assert torch.allclose(scale, found[1][name], rtol=1e-4), name


def test_quantized_input_sees_the_quantized_network(workspace: Make) -> None:
    found = []
    for input_ in ("fp", "quantized"):
        work = workspace(tiny("vit"), UNIFORM, weight="fp", activation=3)
        run(work, {"do": "calibrate", "sites": "activations", "input": input_})
        found.append(scales(work))
    assert torch.equal(found[0]["blocks.0.attn.qkv.input"], found[1]["blocks.0.attn.qkv.input"]), (
        "nothing precedes block 0"
    )
    assert not torch.equal(found[0]["blocks.1.mlp.fc2.input"], found[1]["blocks.1.mlp.fc2.input"])


def test_sites_and_kinds_narrow_what_is_fitted(workspace: Make) -> None:
    work = workspace(tiny("vit"), UNIFORM)
    run(work, {"do": "calibrate", "sites": "weights"})
    on = {s.kind for s in work.model.sites.values() if s.on}
    assert on == {"weight"}
    run(work, {"do": "calibrate", "sites": "activations", "kinds": ["probs", "value"]})
    assert {s.kind for s in work.model.sites.values() if s.on} == {"weight", "probs", "value"}


def test_images_takes_the_first_n(workspace: Make) -> None:
    work = workspace(tiny("vit"), UNIFORM, images=16)
    run(work, {**ALL, "images": 3})
    assert isinstance(work.calib, Images)
    assert work.calib.served == 8, "no batch beyond the one that holds the last image is read"
    first, whole = workspace(tiny("vit"), UNIFORM, images=3), workspace(tiny("vit"), UNIFORM, images=16)
    assert torch.equal(images(work)[:3], images(first)), "both come from the same generator"
    run(first, ALL)
    run(whole, ALL)
    for name, scale in scales(work).items():
        assert torch.allclose(scale, scales(first)[name], rtol=1e-5), name
    assert any(not torch.allclose(scale, scales(whole)[name], rtol=1e-2) for name, scale in scales(work).items())


def test_weights_of_the_same_step_are_quantized_in_the_quantized_stream(workspace: Make) -> None:
    found = []
    for steps in (
        [{**ALL, "input": "quantized"}],
        [{"do": "calibrate", "sites": s, "input": "quantized"} for s in ("weights", "activations")],
    ):
        work = workspace(tiny("vit"), UNIFORM, weight=3, activation=3)
        run(work, *steps)
        found.append(scales(work))
    assert all(torch.equal(scale, found[1][name]) for name, scale in found[0].items())


@pytest.mark.parametrize("input_", ["fp", "quantized"])
def test_a_failed_calibration_leaves_the_model_as_it_was(workspace: Make, input_: str) -> None:
    work = workspace(tiny("vit"), UNIFORM)
    run(work, {"do": "calibrate", "sites": "weights"})
    part(work.model.model, "blocks.1.norm2").bias.data[0] = float("nan")
    with refuses(ValueError, key="activations"):
        run(work, {"do": "calibrate", "sites": "activations", "input": input_})
    assert all(site.observer is None for site in work.model.sites.values())
    assert {site.kind for site in work.model.sites.values() if site.on} == {"weight"}


@pytest.mark.parametrize("granularity", ["tensor", "channel", "token", "group:8"])
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_every_granularity_runs_through_the_model(workspace: Make, family: str, granularity: str) -> None:
    method: dict[str, Any] = {
        "kinds": {
            "weight": {"quantizer": "uniform", "granularity": "group:4"},
            "post_norm": {"quantizer": "uniform", "granularity": granularity, "range": "mse"},
            "post_gelu": {"quantizer": "uniform", "granularity": granularity, "range": "percentile"},
            "query": {"quantizer": "uniform", "granularity": "head"},
            "probs": {"quantizer": "uniform", "granularity": "head"},
        }
    }
    work = workspace(tiny(family), method, weight=8, activation=8)
    run(work, ALL)
    with torch.no_grad():
        x = images(work)
        quantized = work.model(x)
        work.model.switch(work.model.sites.values(), on=False)
        exact = work.model(x)
    assert torch.isfinite(quantized).all()
    assert float((quantized - exact).norm() / exact.norm()) < 0.1


def test_eight_bits_barely_change_the_output_and_three_bits_do(workspace: Make) -> None:
    errors = {}
    for bits in (8, 3):
        work = workspace(tiny("vit"), UNIFORM, weight=bits, activation=bits)
        run(work, ALL)
        with torch.no_grad():
            quantized = work.model(images(work))
            work.model.switch(work.model.sites.values(), on=False)
            exact = work.model(images(work))
        errors[bits] = float((quantized - exact).norm() / exact.norm())
    assert errors[8] < 0.1
    assert errors[3] > 5 * errors[8]


def test_a_constant_channel_is_ordinary_input(workspace: Make) -> None:
    model = tiny("vit")
    part(model, "blocks.0.norm2").weight.data[3] = 0
    part(model, "blocks.1.norm1").weight.data[5] = 0
    part(model, "blocks.1.norm1").bias.data[5] = 0
    channelwise = {"kinds": {"default": {"quantizer": "uniform", "granularity": "channel", "range": "percentile"}}}
    work = workspace(model, channelwise)
    run(work, ALL)
    assert torch.isfinite(work.model(images(work))).all()


def test_a_model_that_gives_nan_is_refused_with_the_sites_name(workspace: Make) -> None:
    model = tiny("vit")
    part(model, "blocks.0.norm1").bias.data[0] = float("nan")
    work = workspace(model, UNIFORM)
    with refuses(ValueError, key="activations"):
        run(work, ALL)
