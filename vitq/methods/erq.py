"""ERQ (Zhong et al., ICML 2024, arXiv 2407.06794; TPAMI 2025): two quantization errors reduced by ridge regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from vitq.config import RunConfig
from vitq.errors import Problem
from vitq.quant.dual import DualUniformQuantizer
from vitq.quant.layers import QuantConv2d
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.calibrate import fit_weight
from vitq.steps.layer_walk import Layer, NetworkWalk, Unquantized, layers, quantized_walk
from vitq.steps.step import Count, Positive, Workspace, register_step
from vitq.steps.weight_grid import (
    Grid,
    WeightStep,
    add_bias,
    as_rows,
    cholesky,
    damped,
    put_weight,
    uniform_of,
)  # fmt: skip


@register_step("erq")
class Erq(WeightStep):
    """For each layer in the order they run: Aqer, then Wqer, then on to the next one with both done.

    Aqer (activation quantization error reduction): W ← W + δW, δW the least of ‖WX − (W + δW)X̄‖² + λ‖δW‖², where the
    layer reads X̄ in the quantized network; its weight quantizer is fitted anew to the result.
    Wqer (weight quantization error reduction): half of the input channels that are left is rounded, `refine` flips
    single roundings that lower the proxy δw(μμᵀ + Σ)δwᵀ of the output error, and `ridge` lets the channels still
    left take up the error of the rounded ones; and so on with these until all are rounded.

    aqer, wqer, refine, ridge: the parts, each an ablation switch. Without wqer the weights are rounded to nearest.
    reference: `local`: X is what the layer reads in the full-precision network (folded as it is now) and X̄ is X
        quantized, so that errors of earlier layers are not seen; `quantized`: X̄ comes from the quantized network, X
        is the same before this layer's own input is quantized; `fp`: X̄ from the quantized network, X from the other.
    dual: weights behind a folded norm are quantized in two groups of input channels (DualUniformQuantizer), the second
        of this share times the number of output channels; 0: one group.
    bias: regress with an intercept, so that the bias takes the mean.
    penalty, penalty_head: λ for the sums over all images and positions, of the layers and of the last ones.
    flips: most flips for each output channel and half. choose: the flip of largest `gradient` among those that go
        against it (the paper's), or of largest `decrease` of the proxy. patch: update the patch embedding too;
        its image is not quantized, so that Wqer alone changes it. Else its weight is rounded to nearest.
    """

    aqer: bool = True
    wqer: bool = True
    refine: bool = True
    ridge: bool = True
    reference: Literal["local", "fp", "quantized"] = "fp"
    dual: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    bias: bool = False
    penalty: Positive = 1000.0
    penalty_head: Positive = 0.1
    flips: Count = 100
    choose: Literal["gradient", "decrease"] = "gradient"
    patch: bool = False

    @property
    def adds_ranges(self) -> bool:
        return self.dual > 0

    def check(self, config: RunConfig) -> list[Problem]:
        problems = super().check(config)
        weight = config.method.quantizer("weight")
        if self.dual > 0 and weight and (weight.quantizer, weight.granularity) != ("uniform", "channel"):
            text = (
                f"dual={self.dual} gives output channels two uniform ranges each, but kinds.weight has quantizer "
                f"{weight.quantizer}, granularity {weight.granularity}; set uniform and channel, or dual=0"
            )
            problems.append(Problem(text, "dual", self.dual))
        if self.reference == "fp" and config.task != "classification":
            text = "reference=fp: which boxes reach a detector's heads differs from network to network; set quantized"
            problems.append(Problem(text, "reference", "fp", ["quantized", "local"]))
        if not (self.aqer or self.wqer):
            text = "aqer and wqer are both off; use enabled=false to leave the step out"
            problems.append(Problem(text, "aqer", self.aqer))
        return problems

    def run(self, work: Workspace) -> None:
        quantized, exact = quantized_walk(work), Unquantized(work)
        folded = {name for link in work.model.structure.links for name in link.consumers}
        for name, layer in layers(work, [quantized, exact], "erq"):
            old = layer.weight_site.quantizer
            if self.dual and name in folded and isinstance(old, UniformQuantizer):
                layer.weight_site.quantizer = old.unfitted(DualUniformQuantizer, granularity="channel", share=self.dual)
            if self.patch or not isinstance(layer, QuantConv2d):
                seen = {"local": (exact, None), "quantized": (quantized, None), "fp": (quantized, exact)}
                self._update(work, layer, moments(layer, name, *seen[self.reference]))
            elif layer.weight_site.quantizer is not None and not layer.weight_site.on:
                fit_weight(work, layer.weight_site)
                layer.weight_site.on = True

    def _update(self, work: Workspace, layer: Layer, seen: Moments) -> None:
        penalty = self.penalty_head if layer.weight_site.owner in work.model.structure.head else self.penalty
        weight = layer.weight.data.flatten(1).double()
        if self.aqer:
            weight, shift = aqer(weight, seen, penalty, self.bias)
            put_weight(layer, weight)
            add_bias(layer, shift)
        site = layer.weight_site
        if site.quantizer is None:
            return
        fit_weight(work, site)
        site.on = True
        if self.wqer:
            grid = Grid.of(uniform_of(site), layer.weight.data)
            gram = seen.gram(centred=self.bias)
            rounded = wqer(weight, gram, grid, penalty if self.ridge else None, self.flips * self.refine, self.choose)
            put_weight(layer, rounded)
            if self.bias:
                add_bias(layer, (weight - rounded) @ seen.mean)


@dataclass
class Moments:
    """Sums over all images and positions, float64. x: a layer's full-precision input; x̄: its quantized one.

    square: Σ x̄x̄ᵀ (I, I). cross: Σ (x − x̄)x̄ᵀ (I, I). mean, difference: means of x̄ and of x − x̄ (I,). count: how many.
    """

    square: Tensor
    cross: Tensor
    mean: Tensor
    difference: Tensor
    count: int

    def gram(self, centred: bool) -> Tensor:
        """Σ x̄x̄ᵀ, of deviations from the mean where an intercept takes the mean."""
        return self.square - self.count * torch.outer(self.mean, self.mean) if centred else self.square

    def mixed(self, centred: bool) -> Tensor:
        """Σ (x − x̄)x̄ᵀ, likewise."""
        return self.cross - self.count * torch.outer(self.difference, self.mean) if centred else self.cross


@torch.no_grad()
def moments(layer: Layer, name: str, quantized: NetworkWalk, exact: NetworkWalk | None) -> Moments:
    """Stream a layer's inputs. exact None: x is x̄ before quantization."""
    site = f"{name}.input_site"
    inputs = layer.weight[0].numel()
    square, cross = (torch.zeros(inputs, inputs, dtype=torch.float64, device=layer.weight.device) for _ in range(2))
    mean, difference = square.new_zeros(inputs), square.new_zeros(inputs)
    count = 0
    others = quantized.arriving(site) if exact is None else exact.arriving(site)
    for noisy, x in zip(quantized.arriving(site), others, strict=True):
        rows = as_rows(layer, layer.input_site(noisy))
        error = as_rows(layer, x) - rows
        square += rows.T @ rows
        cross += error.T @ rows
        mean += rows.sum(dim=0, dtype=torch.float64)
        difference += error.sum(dim=0, dtype=torch.float64)
        count += len(rows)
    return Moments(square, cross, mean / count, difference / count, count)


def aqer(weight: Tensor, seen: Moments, penalty: float, bias: bool) -> tuple[Tensor, Tensor]:
    """(W + δW, δb): δW = W·Σ(x − x̄)x̄ᵀ·(Σx̄x̄ᵀ + λI)⁻¹; δb is zero without an intercept.

    weight: (O, I) float64; returns (O, I) and (O,).
    """
    factor = cholesky(damped(seen.gram(bias), penalty), "penalty")
    change = torch.cholesky_solve((weight @ seen.mixed(bias)).T, factor).T
    shift = weight @ seen.difference - change @ seen.mean
    return weight + change, shift if bias else torch.zeros_like(shift)


def wqer(weight: Tensor, gram: Tensor, grid: Grid, penalty: float | None, flips: int, choose: str) -> Tensor:
    """The quantized weight, (O, I) float64 values on the grid.

    weight: (O, I) float64. gram: Σ x̄x̄ᵀ. penalty: λ of the ridge, None for no ridge. flips: 0 for no refinement.
    """
    updated, left = weight.clone(), torch.arange(weight.shape[1], device=weight.device)
    while len(left):
        half, left = left[: (len(left) + 1) // 2], left[(len(left) + 1) // 2 :]
        before = updated[:, half]
        after = refine(before, gram[half][:, half], grid.columns(half), flips, choose)
        updated[:, half] = after
        if penalty is not None and len(left):
            # argmin over δ of ‖(after − before)x̄_half + δx̄_left‖² + λ‖δ‖².
            pull = (after - before) @ gram[half][:, left]
            factor = cholesky(damped(gram[left][:, left], penalty), "penalty")
            updated[:, left] -= torch.cholesky_solve(pull.T, factor).T
    return updated


def refine(weight: Tensor, gram: Tensor, grid: Grid, flips: int, choose: str) -> Tensor:
    """Round to nearest, then flip at most `flips` roundings of each row to the weight's other neighbour on the grid.

    A flip is made only where it lowers δw·gram·δwᵀ, δw = ŵ − w, which is the proxy times the number of positions: the
    second moment is μμᵀ + Σ. All rows go on at once; a row that finds no such flip is finished.
    """
    codes = grid.encode(weight)
    error = grid.decode(codes) - weight
    # The other neighbour lies on the far side of w; codes at the end of the range have none beyond it.
    move = torch.where(error > 0, -1.0, 1.0).to(weight.dtype)
    outside = (codes + move < 0) | (codes + move > grid.codes - 1)
    step = torch.where(outside, torch.zeros_like(move), move) * grid.scale
    diagonal = gram.diagonal()
    slope = 2 * error @ gram
    active = torch.arange(len(weight), device=weight.device)
    quantized = weight + error
    for _ in range(flips):
        here, by = slope[active], step[active]
        linear = here * by
        change = linear + by.square() * diagonal
        if choose == "gradient":
            column = torch.where(linear < 0, here.abs(), torch.zeros_like(here)).argmax(dim=1)
        else:
            column = change.argmin(dim=1)
        falls = change.gather(1, column.unsqueeze(1)).squeeze(1) < 0
        active, column = active[falls], column[falls]
        if not len(active):
            break
        moved = step[active, column]
        quantized[active, column] += moved
        slope[active] += 2 * moved.unsqueeze(1) * gram[column]
        step[active, column] = -moved
    return grid.decode(grid.encode(quantized))
