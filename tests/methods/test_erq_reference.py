"""What `erq` solves with and leaves behind, layer by layer, against a plain run of the finished network in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.methods.test_erq_step import METHOD, REPQ
from tests.tiny import images, part, run, tiny, uniform
from vitq.methods import erq
from vitq.steps import Workspace
from vitq.steps.weight_grid import Grid

Make = Callable[..., Workspace]
PENALTY, PENALTY_HEAD = 3.0, 0.5
# Every option another than its default, so that one that is not read shows.
STEP: dict[str, Any] = {
    "do": "erq",
    "bias": True,
    "reference": "quantized",
    "penalty": PENALTY,
    "penalty_head": PENALTY_HEAD,
    "refine": False,
    "ridge": False,
    "choose": "decrease",
}


@dataclass
class Visited:
    """One layer: its parameters before the step, what the solvers were given, what it reads in the finished network.

    x: (n, I) its input there, noisy: the same quantized. solved: Aqer's weight, (O, I).
    """

    layer: Any
    weight: Tensor
    bias: Tensor
    x: Tensor
    noisy: Tensor
    moments: erq.Moments
    penalty: float
    solved: Tensor
    gram: Tensor
    ridge: float | None
    flips: int
    choose: str


@torch.no_grad()
def visited(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> dict[str, Visited]:
    """Run the step and tell what happened to every layer but the patch embedding, in the order they run.

    All that a layer reads was finished before its turn, so that the finished network shows it.
    """
    names = [name for name in work.model.structure.inputs if name != "patch_embed.proj"]
    layers = {name: part(work.model.model, name) for name in names}
    before = {name: (m.weight.double().clone(), m.bias.double().clone()) for name, m in layers.items()}
    aqer_seen: list[tuple[erq.Moments, float, Tensor]] = []
    wqer_seen: list[tuple[Tensor, float | None, int, str]] = []
    aqer, wqer = erq.aqer, erq.wqer

    def watched_aqer(weight: Tensor, moments: erq.Moments, penalty: float, bias: bool) -> tuple[Tensor, Tensor]:
        found, shift = aqer(weight, moments, penalty, bias)
        aqer_seen.append((moments, penalty, found))
        return found, shift

    def watched_wqer(
        weight: Tensor, gram: Tensor, grid: Grid, penalty: float | None, flips: int, choose: str
    ) -> Tensor:
        wqer_seen.append((gram, penalty, flips, choose))
        return wqer(weight, gram, grid, penalty, flips, choose)

    monkeypatch.setattr(erq, "aqer", watched_aqer)
    monkeypatch.setattr(erq, "wqer", watched_wqer)
    run(work, STEP)
    read: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, x: Tensor, noisy: Tensor) -> None:
        read[name] = x.double().flatten(0, -2), noisy.double().flatten(0, -2)

    hooks = [
        layer.input_site.register_forward_hook(lambda _, x, noisy, name=name: keep(name, x[0], noisy))
        for name, layer in layers.items()
    ]
    work.model.model(images(work))
    for hook in hooks:
        hook.remove()
    found = {}
    for name, of_aqer, of_wqer in zip(read, aqer_seen, wqer_seen, strict=True):
        moments, penalty, solved = of_aqer
        gram, ridge, flips, choose = of_wqer
        found[name] = Visited(
            layers[name], *before[name], *read[name], moments, penalty, solved, gram, ridge, flips, choose
        )
    assert list(found) == names
    return found


@pytest.fixture
def work(workspace: Make) -> Workspace:
    made = workspace(tiny("vit"), METHOD, images=16, weight=3, activation=4)
    run(made, *REPQ)
    return made


@torch.no_grad()
def test_with_an_intercept_no_mean_output_is_off(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bias takes the mean error of both solvers, with its sign: what is left has mean zero in every channel."""
    for name, seen in visited(work, monkeypatch).items():
        exact = seen.x @ seen.weight.T + seen.bias
        found = seen.noisy @ seen.layer.weight.double().T + seen.layer.bias.double()
        assert float((found - exact).mean(0).abs().max()) < 1e-4, name


@torch.no_grad()
def test_reference_quantized_is_the_quantized_networks_own_input(
    work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X is what the layer reads there before its own quantizer, X̄ the same behind it; the gram is centred."""
    for name, seen in visited(work, monkeypatch).items():
        assert torch.allclose(seen.moments.mean + seen.moments.difference, seen.x.mean(0), atol=1e-4), name
        assert torch.allclose(seen.moments.mean, seen.noisy.mean(0), atol=1e-4), name
        centred = torch.cov(seen.noisy.T, correction=0) * len(seen.noisy)
        assert torch.allclose(seen.gram, centred, rtol=1e-3, atol=1e-2), name


def test_each_option_reaches_its_solver(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seen in visited(work, monkeypatch).items():
        assert seen.penalty == (PENALTY_HEAD if name == "head" else PENALTY), name
        assert (seen.ridge, seen.flips, seen.choose) == (None, 0, "decrease"), name


def test_the_weight_quantizer_is_fitted_to_what_aqer_found(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seen in visited(work, monkeypatch).items():
        fresh = copy.deepcopy(uniform(work, f"{name}.weight"))
        fresh.fit_tensor(seen.solved.float())
        assert torch.equal(fresh.scale, uniform(work, f"{name}.weight").scale), name
