"""Directions in the space of weights, and a model that is moved along them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

Point = dict[str, Tensor]


def filter_normalized(weights: Mapping[str, Tensor], seed: int) -> Point:
    """A random direction whose filters are as long as those of the weights (Li et al. 2018, arXiv 1712.09913, sec. 4).

        d[i] ← d[i] / ‖d[i]‖ · ‖θ[i]‖,  d ~ N(0, 1), i a filter: all weights of one output

    weights: (outputs, …) tensors by name. Biases and norms are not given, so that they stay, as in the paper's code.
    The numbers are drawn on the CPU: one seed is one direction on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = {}
    for name, weight in weights.items():
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        norm = drawn.flatten(1).norm(dim=1).clamp(min=torch.finfo(drawn.dtype).tiny)
        factor = weight.detach().flatten(1).norm(dim=1) / norm
        direction[name] = drawn * factor.view(-1, *(1,) * (weight.ndim - 1))
    return direction


class MovedParameters:
    """Parameters of a model at base + Σ coefficient·direction. As a context manager it puts them back on leaving.

    base, directions: tensors by parameter name; a direction may name fewer. The base is copied.
    """

    def __init__(self, model: nn.Module, base: Mapping[str, Tensor], directions: Sequence[Mapping[str, Tensor]]):
        self._parameters = {name: model.get_parameter(name) for name in base}
        self._base = {name: tensor.detach().clone() for name, tensor in base.items()}
        self._directions = directions
        self._kept: Point = {}

    def __enter__(self) -> Self:
        self._kept = {name: parameter.data for name, parameter in self._parameters.items()}
        for name, parameter in self._parameters.items():
            parameter.data = self._base[name].clone()
        return self

    def __exit__(self, *_: object) -> None:
        for name, parameter in self._parameters.items():
            parameter.data = self._kept[name]

    @torch.no_grad()
    def to(self, *coefficients: float) -> None:
        """Move. Every position is computed from the base: rounding errors do not add up along a path."""
        for name, parameter in self._parameters.items():
            parameter.data.copy_(self._base[name])
            for coefficient, direction in zip(coefficients, self._directions, strict=True):
                if name in direction and coefficient:
                    parameter.data.add_(direction[name], alpha=coefficient)


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Scalar product over all tensors, in float64."""
    return float(sum((a[name].double() * b[name].double()).sum() for name in a))


def minus(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Point:
    """a − b, tensor by tensor."""
    return {name: a[name] - b[name] for name in a}
