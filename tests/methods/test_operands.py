"""Hessian-guided search of two operands: both of a matmul against brute force in float64, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.methods.test_ptq4vit import CALIBRATE, METHOD
from tests.tiny import part, run, tiny, uniform
from vitq.methods import ptq4vit
from vitq.methods.layer_records import collect
from vitq.methods.twin import TwinSoftmaxQuantizer
from vitq.quant.layers import QuantMatmul
from vitq.quant.site import Site
from vitq.steps import Workspace
from vitq.steps.stream import ImageStream, through

Make = Callable[..., Workspace]
SEARCH: dict[str, Any] = {"do": "hessian_search", "rounds": 1, "candidates": 24, "coarse": 24, "alpha": 0.05}


def calibrated(workspace: Make, kind: str) -> Workspace:
    """Only this kind of operand is quantized, to three bits."""
    work = workspace(tiny("vit"), METHOD, images=8, weight="fp", activation=3)
    run(work, {**CALIBRATE, "kinds": [kind]})
    return work


def recorded(work: Workspace, layer: QuantMatmul) -> tuple[Tensor, ...]:
    """Left and right operand, output and gradient of a matmul of the first block for all images, in float64."""
    on = [site for site in work.model.sites.values() if site.on]
    work.model.switch(on, on=False)
    generator = torch.Generator().manual_seed(work.config.seed)
    inputs = through(work.model.structure.segments[0].forward, ImageStream(work), work)
    (record,) = collect(work, 1, [layer], inputs, generator)
    work.model.switch(on, on=True)
    return tuple(torch.cat(tensors).double() for tensors in zip(*record.batches(), strict=True))


def test_the_scale_of_queries_by_brute_force(workspace: Make) -> None:
    work = calibrated(workspace, "query")
    layer = part(work.model.model, "blocks.0.attn.scores")
    quantizer = uniform(work, layer.left_site.name)
    start = float(quantizer.scale)
    query, key, output, gradient = recorded(work, layer)
    grid = np.linspace(0.05, 1.2, 24)
    errors = []
    for factor in grid:
        scale = start * factor
        rounded = (torch.clamp(torch.round(query / scale) + 4, 0, 7) - 4) * scale
        errors.append(float(((rounded @ key.transpose(-2, -1) - output) * gradient).square().sum()))
    run(work, SEARCH)
    chosen = int(np.abs(grid - float(quantizer.scale) / start).argmin())
    assert errors[chosen] <= min(errors) * 1.01
    assert min(errors) < 0.9 * errors[-1], "the grid matters"


def test_the_ratio_of_probabilities_by_brute_force(workspace: Make) -> None:
    """From the worst ratio of all the search finds the best one, and the coarse step stays."""
    work = calibrated(workspace, "probs")
    layer = part(work.model.model, "blocks.0.attn.context")
    quantizer = layer.left_site.quantizer
    assert isinstance(quantizer, TwinSoftmaxQuantizer)
    top = float(quantizer.scale) * 2.0 ** float(quantizer.exponent)
    probs, value, output, gradient = recorded(work, layer)
    codes = torch.arange(4).double()
    errors = []
    for exponent in range(16):
        values = torch.cat([codes * top / 2**exponent, codes * top])
        rounded = values[(probs.unsqueeze(-1) - values).abs().argmin(-1)]
        errors.append(float(((rounded @ value - output) * gradient).square().sum()))
    worst = int(np.argmax(errors))
    assert errors[worst] > 1.1 * min(errors), "the ratio matters"
    quantizer.exponent.fill_(worst)
    quantizer.scale.fill_(top / 2**worst)
    run(work, SEARCH)
    assert errors[int(quantizer.exponent)] <= min(errors) * 1.01
    assert float(quantizer.scale) * 2.0 ** float(quantizer.exponent) == pytest.approx(top)


def turns(weights_or_right: str, inputs_or_left: str) -> list[str]:
    """Two rounds: at first each operand is tried over the whole grid and then nearby, afterwards nearby alone."""
    return [weights_or_right] * 2 + [inputs_or_left] * 2 + [weights_or_right, inputs_or_left]


def test_operands_take_turns_while_the_other_one_is_quantized(workspace: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    choose, quantized = ptq4vit._choose, ptq4vit._quantized
    taken: dict[str, list[str]] = {}
    searched: list[Site] = []

    def watched_choose(
        layer: ptq4vit.Layer, record: Any, site: Site, sites: Sequence[Site], grid: Any, tried: list[Tensor]
    ) -> None:
        searched.append(site)
        taken.setdefault(site.owner, []).append(site.name.removeprefix(f"{site.owner}."))
        choose(layer, record, site, sites, grid, tried)

    def watched_quantized(layer: ptq4vit.Layer, operands: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        found = quantized(layer, operands)
        if isinstance(layer, QuantMatmul):
            before = ((layer.left_site, operands[0]), (layer.right_site, operands[1]))
        else:
            before = ((layer.input_site, operands[0]), (layer.weight_site, layer.weight))
        for (site, plain), after in zip(before, found, strict=True):
            stays = site is searched[-1] or site.quantizer is None
            assert torch.equal(after, plain) is stays, f"{site.name} while {searched[-1].name} is searched"
        return found

    monkeypatch.setattr(ptq4vit, "_choose", watched_choose)
    monkeypatch.setattr(ptq4vit, "_quantized", watched_quantized)
    work = workspace(tiny("vit"), METHOD, images=8, weight=3, activation=3)
    run(work, CALIBRATE, {**SEARCH, "rounds": 2, "coarse": 5})
    assert taken.pop("patch_embed.proj") == ["weight"] * 3, "the image is not quantized"
    for name in ("blocks.0.attn.scores", "blocks.1.attn.scores"):
        assert taken.pop(name) == turns("key", "query")
    for name in ("blocks.0.attn.context", "blocks.1.attn.context"):
        assert taken.pop(name) == turns("value", "probs")
    layers = [name for name in work.model.structure.inputs if name != "patch_embed.proj"]
    assert taken == {name: turns("weight", "input") for name in layers}
