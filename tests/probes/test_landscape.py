"""Landscapes go through points whose loss is known otherwise, and leave the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.errors import is_about, refuses
from tests.probes.conftest import partial
from vitq.config import RunConfig
from vitq.errors import VitqError, as_problem
from vitq.probes import landscape_block
from vitq.probes.directions import MovedParameters, filter_normalized
from vitq.probes.landscape import Landscape, dequantized
from vitq.probes.landscape_anchors import anchors
from vitq.probes.probe import parse_probe
from vitq.probes.probed_model import Subject, spread, switched

Make = Callable[..., Subject]


def full_precision_loss(subject: Subject) -> float:
    model = subject.reference.model
    assert model is not None
    with torch.no_grad():
        return float(sum(F.cross_entropy(model(x), y, reduction="sum") for x, y in subject.batches)) / len(
            subject.images
        )


def tensors(subject: Subject) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in subject.model.state_dict().items()}


def test_directions_have_the_weights_filter_norms() -> None:
    weights = {"a": torch.randn(5, 7), "b": torch.randn(3, 2, 4, 4)}
    weights["a"][2] = 0
    direction = filter_normalized(weights, 3)
    for name, weight in weights.items():
        torch.testing.assert_close(direction[name].flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    assert torch.equal(direction["b"], filter_normalized(weights, 3)["b"])
    assert not torch.equal(direction["b"], filter_normalized(weights, 4)["b"])


def test_moving_is_exact_and_is_undone() -> None:
    layer = nn.Linear(4, 3)
    before, identity = layer.weight.detach().clone(), layer.weight.data_ptr()
    step = {"weight": torch.randn(3, 4)}
    with MovedParameters(layer, {"weight": layer.weight}, [step]) as moved:
        for _ in range(5):
            moved.to(0.3)
        assert torch.equal(layer.weight, before.add(step["weight"], alpha=0.3))
        moved.to(0.0)
        assert torch.equal(layer.weight, before)
    with pytest.raises(ValueError) as raised, MovedParameters(layer, {"weight": layer.weight}, [step]) as moved:
        moved.to(1.0, 2.0)
    assert raised.traceback[-1].name == "to"
    assert torch.equal(layer.weight, before)
    assert layer.weight.data_ptr() == identity


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_landscapes_meet_known_losses_and_leave_the_model_alone(subject: Make, family: str) -> None:
    found = subject("repq_vit", family)
    before, loss = tensors(found), found.loss()
    probe = Landscape(points=3, line_points=3, block_points=3)
    arrays = probe.measure(found, partial())
    assert arrays["random.loss"][1, 1] == loss
    assert np.ptp(arrays["random.loss"]) > 0
    # Nothing was learned: at the end of the line are the run's own weights, at its beginning full precision.
    assert "plane.loss" not in arrays
    assert arrays["path.quantized"][-1] == pytest.approx(loss, abs=1e-6)
    assert arrays["path.fp"][0] == pytest.approx(full_precision_loss(found), abs=1e-4)
    assert arrays["path.quantized"][0] != arrays["path.fp"][0]
    after = tensors(found)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert found.loss() == loss
    assert probe.passes(found.config) == 9 + 6 + 1.5
    picture = probe.draw(arrays, "a run")
    assert len(picture.axes) >= 9


def test_dequantized_directions_start_at_the_same_loss(subject: Make) -> None:
    found = subject()
    arrays = Landscape(views=("random",), points=3, perturb="dequantized").measure(found, partial())
    assert arrays["random.loss"][1, 1] == pytest.approx(found.loss(), abs=1e-6)
    latent = Landscape(views=("random",), points=3).measure(found, partial())
    assert not np.array_equal(arrays["random.loss"], latent["random.loss"])
    weights = dequantized(found)
    assert weights["blocks.0.attn.qkv.weight"].unique(dim=1).shape[1] > 1
    assert len(weights["blocks.0.attn.qkv.weight"][0].unique()) <= 16


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_learned_weights_span_a_plane_with_full_precision_and_rounded_ones(subject: Make, family: str) -> None:
    found = subject("ias_vit", family, method={**_recipe("ias_vit"), "iterations": 4})
    loss = found.loss()
    arrays = Landscape(views=("path",), points=3, line_points=3).measure(found, partial())
    assert arrays["plane.line"][-1] == pytest.approx(loss, abs=1e-5)
    assert arrays["plane.line"][0] == pytest.approx(arrays["path.quantized"][0], abs=1e-6)
    assert arrays["path.fp"][0] == pytest.approx(full_precision_loss(found), abs=1e-4)
    points = anchors(found)
    assert points.learned
    distance = sum(float((points.final[n] - points.full[n]).square().sum()) for n in points.full) ** 0.5
    assert np.linalg.norm(arrays["plane.anchors"][2]) == pytest.approx(distance, rel=1e-4)
    assert found.loss() == loss


def test_full_precision_in_folded_coordinates_has_folded_channels(subject: Make) -> None:
    """Equalized, reparameterized, with balances at run time: still the same function."""
    shared = {"range": "minmax", "quantizer": "uniform"}
    equalize = {"do": "equalize", "strength": 0.5}
    fit = {"do": "calibrate", "input": "quantized"}
    recipe = {
        "name": "folds",
        "kinds": {"post_norm": {**shared, "granularity": "channel"}, "default": shared},
        "steps": {
            "balance": {**equalize, "rule": "aocq", "bare": ["attn_out", "post_gelu"]},
            "activations": {**fit, "sites": "activations"},
            "norms": {"do": "reparameterize"},
            "weights": {**fit, "sites": "weights"},
        },
    }
    found = subject("minmax", method=recipe)
    assert any(getattr(layer, "balance", None) is not None for layer in found.model.layers().values())
    arrays = Landscape(views=("path",), line_points=3).measure(found, partial())
    assert arrays["path.fp"][0] == pytest.approx(full_precision_loss(found), abs=1e-4)


def test_coordinates_that_cannot_be_found_are_an_error(subject: Make) -> None:
    found = subject("minmax")
    with torch.no_grad():
        found.model.model.get_parameter("norm.weight").mul_(1.5)
    with refuses(VitqError, key="probe.options.landscape.views", valid=["random", "block"]):
        anchors(found)


def test_block_loss_equals_a_plain_computation(subject: Make) -> None:
    """Only post-LayerNorm is quantized: min-max ranges by hand, on timm's own block, in float64."""
    kinds = {"post_norm": {"quantizer": "uniform", "granularity": "channel", "range": "minmax"}}
    raw = {"name": "only", "kinds": kinds, "steps": {"a": {"do": "calibrate", "sites": "activations"}}}
    found = subject("minmax", method=raw)
    x = y = np.array([-0.25, 0.0, 0.25])
    name, values = landscape_block.landscapes(found, "blocks.1", x, y, 0, partial())
    assert name == "blocks.1"
    for granularity in ("channel", "tensor"):
        expected = [plain_block_loss(found, granularity, step) for step in x]
        np.testing.assert_allclose(values[granularity][1], expected, rtol=1e-2)
    assert values["tensor"][1, 1] > values["channel"][1, 1] > 0


@torch.no_grad()
def plain_block_loss(found: Subject, granularity: str, step: float) -> float:
    """Block 1 of the timm model with 4-bit inputs of qkv and fc1, their scales multiplied by 1 + step."""
    model: Any = found.reference.model
    plain = model.blocks[1]
    inputs = torch.cat([model.blocks[0](model._pos_embed(model.patch_embed(batch))) for batch, _ in found.batches])
    target = plain(inputs)
    ranges: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def see(layer: nn.Module, args: tuple[Tensor]) -> None:
        tokens = args[0].double().flatten(0, 1)
        low, high = (tokens.amin(0), tokens.amax(0)) if granularity == "channel" else (tokens.min(), tokens.max())
        scale = ((high.clamp(min=0) - low.clamp(max=0)) / 15).float()
        ranges[layer] = scale, torch.round(-low.clamp(max=0).float() / scale)

    def quantize(layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        scale, zero = ranges[layer]
        moved = scale.double() * (1 + step)
        codes = (torch.round(args[0].double() / moved) + zero).clamp(0, 15)
        return (((codes - zero) * moved).float(),)

    output = target
    for hook in (see, quantize):
        handles = [layer.register_forward_pre_hook(hook) for layer in (plain.attn.qkv, plain.mlp.fc1)]
        output = plain(inputs)
        for handle in handles:
            handle.remove()
    return float((output - target).double().square().mean())


def test_weights_alone_have_no_block_view(subject: Make) -> None:
    found = subject("minmax", bits={"weight": 4, "activation": "fp"})
    arrays = Landscape(points=3, line_points=3, block_points=3).measure(found, partial())
    assert {name.split(".")[0] for name in arrays} == {"random", "path"}
    np.testing.assert_array_equal(arrays["path.quantized"], arrays["path.fp"])


def test_block_names_are_checked(subject: Make) -> None:
    with refuses(VitqError, key="probe.options.landscape.block", value="blocks.7", valid=["blocks.0", "blocks.1"]):
        landscape_block.Block(subject("minmax"), "blocks.7", "channel", 0)
    with refuses(VitqError, key="probe.options.landscape.block", value="patch_embed"):
        landscape_block.Block(subject("minmax"), "patch_embed", "channel", 0)


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        ({"points": 4}, "points", 4),
        ({"block_points": 1}, "block_points", 1),
        ({"line_points": 2}, "line_points", 2),
        ({"span": 0}, "span", 0),
        ({"scale_span": 1.0}, "scale_span", 1.0),
        ({"views": []}, "views", ()),
    ],
)
def test_impossible_options_are_found_before_the_start(
    subject: Make, options: dict[str, object], key: str, value: object
) -> None:
    probe, problems = parse_probe("landscape", options)
    assert probe is not None, problems
    config = RunConfig.parse({"model": {"name": "a"}, "data": {"name": "b"}, "method": {"name": "c"}})[0]
    assert config is not None
    assert is_about(as_problem(probe.check(config)[0]), key, value)


def test_probe_images_are_spread_evenly_and_sites_come_back() -> None:
    assert spread(10, 3) == [0, 4, 9]
    assert spread(3, 64) == [0, 1, 2]


def test_switched_sites_come_back(subject: Make) -> None:
    found = subject("minmax")
    on = [site.name for site in found.model.sites.values() if site.on]
    with switched(found.model, weights=False):
        assert not any(site.on for site in found.model.sites.values() if site.is_weight)
        assert any(site.on for site in found.model.sites.values())
    assert [site.name for site in found.model.sites.values() if site.on] == on


def _recipe(name: str) -> dict[str, object]:
    import yaml

    from tests.job.planner import CONF

    loaded: dict[str, object] = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())
    return loaded
