"""A layer as a matrix product on a grid: what closed-form weight updates work on, in float64."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitq.config import RunConfig
from vitq.errors import Problem
from vitq.quant.layers import QuantLinear
from vitq.quant.quantizer import may_be
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.layer_walk import Layer
from vitq.steps.step import Step


@dataclass
class Grid:
    """The codes of a weight matrix: (O, I) float64 scale and zero point of each entry, and the number of codes."""

    scale: Tensor
    zero: Tensor
    codes: int

    @staticmethod
    def of(quantizer: UniformQuantizer, weight: Tensor) -> Grid:
        """Grid of a fitted quantizer for a weight (O, …)."""
        layout = quantizer.layout
        expanded = layout.expand(weight)
        scale, zero = (
            layout.collapse(layout.view(p).expand_as(expanded), weight.shape).flatten(1).double()
            for p in (quantizer.scale, quantizer.zero_point)
        )
        return Grid(scale, zero, quantizer.codes)

    def columns(self, index: Tensor) -> Grid:
        """The grid of some input channels, int64 (n,), in that order."""
        return Grid(self.scale[:, index], self.zero[:, index], self.codes)

    def encode(self, weight: Tensor) -> Tensor:
        """Codes, float64, of a (O, I) float64 weight rounded to nearest."""
        return (torch.round(weight / self.scale) + self.zero).clamp_(0, self.codes - 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Values of codes."""
        return (codes - self.zero) * self.scale


def as_rows(layer: Layer, x: Tensor) -> Tensor:
    """(n, I): the vectors that the rows of the weight matrix (O, I) are multiplied with, from a layer's input.

    Raises ValueError for a convolution with groups or with padding other than zeros: its weight is no single matrix.
    """
    if isinstance(layer, QuantLinear):
        return x.reshape(-1, x.shape[-1])
    if layer.groups != 1 or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        text = (
            f"a convolution with groups={layer.groups}, padding={layer.padding!r} ({layer.padding_mode}) is no single "
            "matrix product; valid: groups=1 and zero padding given as numbers"
        )
        raise ValueError(Problem(text, "layer", (layer.groups, layer.padding, layer.padding_mode)))
    patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return patches.transpose(1, 2).flatten(0, 1)


def put_weight(layer: Layer, weight: Tensor) -> None:
    """Give a layer a weight matrix (O, I) of any float type, as a new tensor."""
    layer.weight.data = weight.to(layer.weight.dtype).view_as(layer.weight).contiguous()


def add_bias(layer: Layer, shift: Tensor) -> None:
    """Add (O,) to a layer's bias, as a new tensor; one that has none gets one where the shift is not zero."""
    if layer.bias is None and not bool(shift.any()):
        return
    bias = torch.zeros_like(shift) if layer.bias is None else layer.bias.double()
    layer.bias = nn.Parameter((bias + shift).to(layer.weight.dtype), requires_grad=False)


def damped(gram: Tensor, ridge: float) -> Tensor:
    """gram + ridge·I, with a unit diagonal where an input is always zero: such an input has no say in anything."""
    diagonal = gram.diagonal() + ridge
    diagonal = torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal))
    return gram.clone().diagonal_scatter(diagonal)


def cholesky(matrix: Tensor, ridge: str) -> Tensor:
    """Lower Cholesky factor. Raises ValueError where the matrix is not positive definite.

    ridge: the option to raise then, as the error says.
    """
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        text = f"the {len(matrix)}×{len(matrix)} matrix of second moments is singular; raise {ridge}"
        raise ValueError(Problem(text, ridge, len(matrix)))
    return factor


def uniform_of(site: Site) -> UniformQuantizer:
    """A weight's quantizer, where `needs_uniform_weights` found no problem."""
    assert isinstance(site.quantizer, UniformQuantizer), site.name
    return site.quantizer


def needs_uniform_weights(config: RunConfig, step: str) -> list[Problem]:
    """The problem of a recipe whose weights are not on a uniform grid, for a step that needs one."""
    weight = config.method.quantizer("weight")
    name = None if weight is None else weight.quantizer
    if name is not None and may_be(name, UniformQuantizer):
        return []
    text = f"{step} needs a uniform quantizer for kind weight, not {name}; set method.kinds.weight.quantizer=uniform"
    return [Problem(text, value=name, valid=["uniform"])]


class WeightStep(Step):
    """A step that fits the ranges of all weights and chooses their codes, on a uniform grid."""

    depends_on_bits: ClassVar[bool] = True
    tunes_weights: ClassVar[bool] = True
    detectors: ClassVar[bool] = True

    def fits(self) -> Collection[str]:
        return ("weight",)

    def check(self, config: RunConfig) -> list[Problem]:
        return needs_uniform_weights(config, self.do)
