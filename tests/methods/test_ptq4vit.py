"""Hessian-guided search: it lowers its own objective, and finds what a plain float64 search over the grid finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.errors import is_about
from tests.job.test_detectors import Detectors
from tests.tiny import images, part, run, tiny
from vitq.engine.recipe_checks import problems
from vitq.methods.layer_records import collect
from vitq.methods.ptq4vit import HessianSearch
from vitq.methods.twin import TwinUniformQuantizer
from vitq.quant.layers import QuantLinear, QuantMatmul
from vitq.quant.uniform import UniformQuantizer
from vitq.steps import Workspace
from vitq.steps.stream import ImageStream, through

Make = Callable[..., Workspace]
METHOD: dict[str, Any] = {
    "kinds": {
        "weight": {"granularity": "channel", "symmetric": True},
        "post_gelu": {"quantizer": "twin_uniform"},
        "probs": {"quantizer": "twin_softmax"},
        "default": {"symmetric": True},
    }
}
CALIBRATE = {"do": "calibrate"}


def distance(work: Workspace) -> float:
    with torch.no_grad():
        exact = images(work)
        for segment in work.teacher.segments:
            exact = segment.forward(exact)
        return float((work.model(images(work)) - exact).square().mean())


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_it_brings_the_network_closer(workspace: Make, family: str) -> None:
    work = workspace(tiny(family), METHOD, images=8, weight=4, activation=4)
    run(work, CALIBRATE)
    before = distance(work)
    on = {site.name for site in work.model.sites.values() if site.on}
    run(work, {"do": "hessian_search", "rounds": 2, "candidates": 30, "coarse": 10})
    assert distance(work) < before
    assert {site.name for site in work.model.sites.values() if site.on} == on
    for site in work.model.quantized():
        if site.on and not site.is_weight:
            assert bool(torch.isfinite(site.quantizer.get_buffer("scale")).all())  # type: ignore[union-attr]


def test_weights_take_the_best_candidate_of_each_channel(workspace: Make) -> None:
    """One round over the weights alone, the whole grid: the reference evaluates every candidate in float64."""
    work = workspace(tiny("vit"), METHOD, images=8, weight=3, activation="fp")
    run(work, {"do": "calibrate", "sites": "weights"})
    layer = part(work.model.model, "blocks.0.mlp.fc1")
    assert isinstance(layer, QuantLinear)
    base = layer.weight_site.quantizer.get_buffer("scale").double().numpy()  # type: ignore[union-attr]
    weight = layer.weight.detach().double().numpy()
    segments = work.model.structure.segments
    index = next(i for i, s in enumerate(segments) if s.name == "blocks.0")
    inputs: Any = ImageStream(work)
    on = [site for site in work.model.sites.values() if site.on]
    work.model.switch(on, on=False)
    generator = torch.Generator().manual_seed(work.config.seed)
    for i in range(index + 1):  # the labels of earlier segments are drawn first
        (record,) = collect(work, i, [layer], inputs, generator) if i == index else [None]
        if i < index:
            stem = part(work.model.model, "patch_embed.proj")
            collect(work, i, [stem], inputs, generator)
            inputs = through(segments[i].forward, inputs, work)
    work.model.switch(on, on=True)
    assert record is not None
    x, _, gradient = (torch.cat(t).double().numpy() for t in zip(*record.batches(), strict=True))
    grid = np.linspace(0.2, 1.2, 21)
    errors = []
    for factor in grid:
        scale = (base * factor)[:, None]
        quantized = (np.clip(np.round(weight / scale) + 4, 0, 7) - 4) * scale
        errors.append(np.sum((x @ (quantized - weight).T * gradient) ** 2, axis=(0, 1)))
    run(work, {"do": "hessian_search", "rounds": 1, "candidates": 21, "coarse": 21, "alpha": 0.2})
    found = layer.weight_site.quantizer.get_buffer("scale").double().numpy() / base  # type: ignore[union-attr]
    chosen = np.array(errors)[np.abs(grid[:, None] - found).argmin(axis=0), np.arange(len(base))]
    # A weight halfway between two codes may round another way in float32.
    assert np.mean(chosen <= np.min(errors, axis=0) * 1.001) > 0.97


def test_the_positive_step_after_gelu_is_searched_and_negative_values_stay_covered(workspace: Make) -> None:
    """One round over that input alone, the whole grid: the reference evaluates every candidate in float64."""
    work = workspace(tiny("vit"), METHOD, images=8, weight="fp", activation=4)
    run(work, {"do": "calibrate", "kinds": ["post_gelu"]})
    layer = part(work.model.model, "blocks.0.mlp.fc2")
    assert isinstance(layer, QuantLinear)
    quantizer = layer.input_site.quantizer
    assert isinstance(quantizer, TwinUniformQuantizer)
    top = float(quantizer.scale[0]) * 2.0 ** float(quantizer.exponent[0])
    inputs: Any = ImageStream(work)
    on = [site for site in work.model.sites.values() if site.on]
    work.model.switch(on, on=False)
    generator = torch.Generator().manual_seed(work.config.seed)
    segments = work.model.structure.segments
    # The patch embedding has nothing to search.
    (record,) = collect(work, 1, [layer], through(segments[0].forward, inputs, work), generator)
    work.model.switch(on, on=True)
    x, _, gradient = (torch.cat(t).double().numpy() for t in zip(*record.batches(), strict=True))
    weight = layer.weight.detach().double().numpy()
    grid = np.linspace(0.05, 1.2, 24)
    errors = []
    for factor in grid:
        coarse = top * factor
        # The finest power of two below it whose eight steps reach the least value.
        fine = max(
            (coarse / 2**m for m in range(16) if coarse / 2**m * 8 >= -x.min()), default=coarse, key=lambda s: -s
        )
        rounded = np.where(
            x < 0, np.clip(np.round(x / fine), -8, 0) * fine, np.clip(np.round(x / coarse), 0, 7) * coarse
        )
        errors.append((np.sum(((rounded - x) @ weight.T * gradient) ** 2), coarse, fine))
    run(work, {"do": "hessian_search", "rounds": 1, "candidates": 24, "coarse": 24, "alpha": 0.05})
    found = [float(quantizer.scale[0]) * 2.0 ** float(quantizer.exponent[0]), float(quantizer.scale[0])]
    assert found == pytest.approx(min(errors)[1:], rel=1e-4)
    assert found[0] < 0.9 * top, "clipping pays here"
    assert found[1] * 8 >= -x.min() * (1 - 1e-6)


def test_each_operand_of_a_product_is_searched_by_its_own_range(workspace: Make) -> None:
    """Attention values are negative too, though the probabilities beside them are not."""
    method = {"kinds": METHOD["kinds"] | {"value": {"quantizer": "twin_uniform"}}}
    work = workspace(tiny("vit"), method, images=8, weight="fp", activation=6)
    run(work, CALIBRATE)
    product = part(work.model.model, "blocks.0.attn.context")
    assert isinstance(product, QuantMatmul)
    quantizer = product.right_site.quantizer
    assert isinstance(quantizer, TwinUniformQuantizer)
    before = distance(work)
    run(work, {"do": "hessian_search"})
    # Values are as often negative as positive, so that both regions have about one step. With the range of
    # probabilities the negative one had 2^-15 of it.
    assert float(quantizer.exponent[0]) <= 1
    assert distance(work) < before


def test_a_balanced_input_is_searched_as_its_site_sees_it(workspace: Make) -> None:
    work = workspace(tiny("vit"), METHOD, images=8, weight=6, activation=6)
    run(work, {"do": "equalize", "rule": "aocq", "norms": False, "bare": ["attn_out", "post_gelu"]}, CALIBRATE)
    assert any(getattr(m, "balance", None) is not None for m in work.model.model.modules())
    before = distance(work)
    run(work, {"do": "hessian_search", "rounds": 1, "candidates": 30, "coarse": 10})
    assert distance(work) < before


def test_the_search_sees_the_first_images_alone(workspace: Make) -> None:
    found = []
    for count, images_seen in ((8, 3), (3, None), (8, None)):
        work = workspace(tiny("vit"), METHOD, images=8, weight=3, activation="fp")
        object.__setattr__(work.config.calib, "batch_size", 3)
        run(work, {"do": "calibrate", "sites": "weights"})
        if count < 8:
            work.calib = work.calib.take(list(range(count)))
        run(work, {"do": "hessian_search", "rounds": 1, "candidates": 20, "coarse": 20, "images": images_seen})
        found.append(part(work.model.model, "blocks.0.mlp.fc1").weight_site.quantizer.scale)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        ({"rounds": 0}, "rounds", 0),
        ({"coarse": 200}, "coarse", 200),
        ({"alpha": 2.0}, "alpha", 2.0),
        ({"images": 0}, "images", 0),
    ],
)
def test_bad_options_are_named(workspace: Make, options: dict[str, Any], key: str, value: object) -> None:
    work = workspace(tiny("vit"), METHOD)
    (found,) = HessianSearch(do="hessian_search", **options).check(work.config)
    assert is_about(found, key, value)


@pytest.mark.parametrize(
    ("kinds", "value"),
    [
        ({"probs": {"quantizer": "log2"}}, "log2"),
        ({"weight": {"granularity": "group:8"}}, ("uniform", "group:8")),
        ({"weight": {"quantizer": "dual_uniform"}}, ("dual_uniform", "tensor")),
    ],
)
def test_quantizers_without_a_scale_to_search_are_named(workspace: Make, kinds: dict[str, Any], value: object) -> None:
    work = workspace(tiny("vit"), {"kinds": {"default": {}} | kinds})
    (found,) = HessianSearch(do="hessian_search").check(work.config)
    assert is_about(found, "", value)


def test_a_layer_that_runs_often_has_one_scale_for_all_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A detector's first convolution of the heads, which reads five levels; masks' layers read the objects' cells."""
    detectors = Detectors(tmp_path)
    kinds = {"default": {"symmetric": True}, "weight": {"granularity": "channel", "symmetric": True}}
    search = {"do": "hessian_search", "rounds": 1, "candidates": 5, "coarse": 5, "alpha": 0.2}
    plain = {"name": "search", "kinds": kinds, "steps": {"ranges": {"do": "calibrate"}, "search": search}}
    config = detectors.config(plain, bits={"weight": 3, "activation": "fp"})
    assert problems(config) == []
    kept: dict[str, list[tuple[Tensor, ...]]] = {}

    def keeping(work: Workspace, index: int, layers: Any, inputs: Any, generator: torch.Generator) -> Any:
        records = collect(work, index, layers, inputs, generator)
        kept.update({layer.weight_site.owner: list(r.batches()) for layer, r in zip(layers, records, strict=True)})
        return records

    monkeypatch.setattr("vitq.methods.ptq4vit.collect", keeping)
    work = detectors.workspace(config)
    assert len(kept["backbone.body.patch_embed.proj"]) == 2
    assert 0 < len(kept["roi_heads.mask_head.0.0"]) <= 2
    calls, layer = kept["rpn.head.conv.0.0"], work.model.layer("rpn.head.conv.0.0")
    assert len(calls) == 2 * 5
    found = layer.weight_site.quantizer
    assert isinstance(found, UniformQuantizer)
    chosen = found.scale.clone()
    found.fit_tensor(layer.weight.detach())
    base, weight, errors = found.scale, layer.weight.detach().double(), []
    for factor in np.linspace(0.2, 1.2, 5):
        scale = (base * factor).double().view(-1, 1, 1, 1)
        apart = (weight / scale).round().clamp(-4, 3) * scale - weight
        each = [torch.conv2d(x.double(), apart, padding=1) * g.double() for x, _, g in calls]
        errors.append(torch.stack([error.square().sum(dim=(0, 2, 3)) for error in each]).sum(dim=0))
    at = (torch.linspace(0.2, 1.2, 5).view(-1, 1) - chosen / base).abs().argmin(dim=0)
    own, least = torch.stack(errors).gather(0, at.unsqueeze(0))[0], torch.stack(errors).min(dim=0).values
    # A weight halfway between two codes may round another way in float32.
    assert float((own <= least * 1.001).double().mean()) > 0.9
    assert len(at.unique()) > 1
