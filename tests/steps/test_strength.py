"""Equalize's search: each layer's strength is the best by brute force, and what else is quantized does not matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.tiny import linear, run, seen, tiny
from vitq.steps import Workspace

Make = Callable[..., Workspace]


def method(range_: str) -> dict[str, Any]:
    return {"kinds": {"weight": {"granularity": "channel", "range": range_}, "default": {"range": range_}}}


def ranges(values: Tensor, range_: str) -> list[tuple[Tensor, Tensor]]:
    """The candidates (low, high), (G, 1) each, of every row of (G, N) values; zero inside."""
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    tried = {
        "minmax": lambda: [(low, high)],
        "mse": lambda: [(low * i / 100, high * i / 100) for i in range(1, 101)],
        "percentile": lambda: [
            (values.quantile(1 - p, dim=1, keepdim=True), values.quantile(p, dim=1, keepdim=True))
            for p in (0.999, 0.9999, 0.99999)
        ],
    }
    return [(low.clamp(max=0), high.clamp(min=0)) for low, high in tried[range_]()]


def quantized(values: Tensor, range_: str) -> Tensor:
    """Rows of (G, N) values in 4 bits, each with the candidate range of least squared error, in float64."""
    best, least = values, torch.full((len(values), 1), torch.inf, dtype=torch.float64)
    for low, high in ranges(values, range_):
        scale = (high - low) / 15
        zero = torch.round(-low / scale)
        tried = scale * (torch.clamp(torch.round(values / scale) + zero, 0, 15) - zero)
        error = (tried - values).square().sum(1, keepdim=True)
        best, least = torch.where(error < least, tried, best), torch.minimum(error, least)
    return best


def balanced(x: Tensor, weight: Tensor, step: dict[str, Any], strength: float) -> tuple[Tensor, Tensor]:
    """Middle and ratio of each channel in float64, by the formulas of the step's rule."""
    low, high = x.amin(0), x.amax(0)
    middle = (low + high) / 2 if step.get("shift", True) else torch.zeros_like(low)
    if step["rule"] == "sq_b":
        ratio = (x - middle).abs().amax(0) ** strength / weight.abs().amax(0) ** (1 - strength)
    else:
        ratio = ((high - low) / (high - low).mean()) ** strength
    return middle, 2 ** ratio.log2().round() if step.get("power_of_two") else ratio


def reference_error(x: Tensor, weight: Tensor, step: dict[str, Any], strength: float, range_: str) -> float:
    """Squared output error in float64: 4-bit input, one range for all; 4-bit weight, a range for each row."""
    middle, ratio = balanced(x, weight, step, strength)
    x = x - middle
    even = quantized((x / ratio).view(1, -1), range_).view(x.shape)
    scaled = quantized(weight * ratio, range_)
    return float((F.linear(even, scaled) - F.linear(x, weight)).square().sum())


@pytest.mark.parametrize(
    ("family", "step", "range_"),
    [
        ("vit", {"rule": "sq_b"}, "minmax"),
        ("swin", {"rule": "sq_b"}, "minmax"),
        ("vit", {"rule": "aocq"}, "minmax"),
        ("swin", {"rule": "aocq"}, "minmax"),
        ("vit", {"rule": "aocq", "shift": False}, "minmax"),
        ("swin", {"rule": "aocq", "shift": False}, "minmax"),
        # Without the shift: centred, the zero point is halfway between two codes, and the last bit decides for one.
        ("vit", {"rule": "sq_b", "shift": False}, "mse"),
        ("vit", {"rule": "aocq", "shift": False}, "mse"),
        ("vit", {"rule": "sq_b", "shift": False}, "percentile"),
        ("vit", {"rule": "aocq", "shift": False}, "percentile"),
        ("vit", {"rule": "aocq", "shift": False, "power_of_two": True}, "minmax"),
    ],
)
@torch.no_grad()
def test_the_searched_strength_is_the_best_by_brute_force(
    workspace: Make, family: str, step: dict[str, Any], range_: str
) -> None:
    work = workspace(tiny(family), method(range_), weight=4, activation=4)
    names = [name for link in work.model.structure.links for name in link.consumers]
    before = {name: (seen(work, name), linear(work, name).weight.double()) for name in names}
    run(work, {"do": "equalize", **step})
    for name, (x, weight) in before.items():
        errors = {i / 10: reference_error(x, weight, step, i / 10, range_) for i in range(11)}
        strength = linear(work, name).equalized
        assert strength is not None
        # Float32, and where the range is searched its bins, may decide otherwise only between equally good candidates.
        assert errors[strength] <= min(errors.values()) * (1.002 if range_ == "minmax" else 1.02), (name, errors)
        assert errors[strength] * 1.04 < max(errors.values()), "the candidates differ, or nothing is proved"


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize("rule", ["sq_b", "aocq"])
@torch.no_grad()
def test_the_strength_of_a_bare_input_is_the_best_by_brute_force(workspace: Make, family: str, rule: str) -> None:
    """Where no norm precedes, whatever the step says of shifts and ratios: no shift, powers of two."""
    work = workspace(tiny(family), method("minmax"), weight=4, activation=4)
    kinds = ["attn_out", "post_gelu"]
    names = [site.owner for site in work.model.sites.values() if site.kind in kinds]
    before = {name: (seen(work, name), linear(work, name).weight.double()) for name in names}
    run(work, {"do": "equalize", "rule": rule, "norms": False, "bare": kinds})
    step = {"rule": rule, "shift": False, "power_of_two": True}
    for name, (x, weight) in before.items():
        errors = {i / 10: reference_error(x, weight, step, i / 10, "minmax") for i in range(11)}
        layer = linear(work, name)
        assert layer.equalized is not None
        assert errors[layer.equalized] <= min(errors.values()) * 1.002, (name, errors)
        assert errors[layer.equalized] * 1.04 < max(errors.values()), "the candidates differ, or nothing is proved"
        ratio = balanced(x, weight, step, layer.equalized)[1]
        assert layer.balance is not None
        assert torch.equal(layer.balance.double(), 1 / ratio), "the ratio is that of the noted strength"


@pytest.mark.parametrize("candidates", [[0.0, 0.01], [0.01, 0.0]])
def test_ties_keep_the_earlier_candidate(workspace: Make, candidates: list[float]) -> None:
    """As powers of two the ratios of both are 1: the same errors to the last bit."""
    work = workspace(tiny("vit"), method("minmax"), weight=4, activation=4)
    run(work, {"do": "equalize", "rule": "aocq", "power_of_two": True, "candidates": candidates})
    names = [name for link in work.model.structure.links for name in link.consumers]
    assert {linear(work, name).equalized for name in names} == {candidates[0]}


@torch.no_grad()
def test_the_search_sees_the_full_precision_network_and_leaves_sites_as_they_were(workspace: Make) -> None:
    """Whether weights are quantized already, here to two bits, changes neither ranges nor strengths."""
    found = []
    for before in ([], [{"do": "calibrate", "sites": "weights"}]):
        work = workspace(tiny("vit"), method("minmax"), weight=2, activation=4)
        run(work, *before, {"do": "equalize", "rule": "sq_b"})
        on = {site.kind for site in work.model.sites.values() if site.on}
        assert on == ({"weight"} if before else set())
        layers = [linear(work, name) for link in work.model.structure.links for name in link.consumers]
        found.append([(layer.equalized, layer.weight.clone()) for layer in layers])
    for (strength, weight), (again, same) in zip(*found, strict=True):
        assert strength == again
        assert torch.equal(weight, same)
