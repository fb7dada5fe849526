"""Granularity: which elements of a tensor share one scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vitq.errors import Problem

# A head shares a scale, or each of its token positions or of its channels has one.
_HEADED = ("head", "head_token", "head_channel")


@dataclass(frozen=True)
class Axes:
    """Roles of a site's dimensions.

    channel: the channel dimension (0 for weights, -1 for activations, 1 for images).
    head: the attention-head dimension, None where there is none.
    token: whether there are token dimensions, positions within an image or window: N in (B, N, C) and (B, h, N, d),
        H and W in (B, H, W, C).
    weight: True for weights, where `group:N` means N neighbouring inputs of one output channel.
    """

    channel: int
    head: int | None = None
    token: bool = False
    weight: bool = False


@dataclass(frozen=True)
class Layout:
    """Granularity applied to one tensor shape.

    groups: number of groups G that have a scale of their own.
    params: shape to which a (G,) parameter is viewed so that it broadcasts against `expand(x)`.
    split: group size where neighbouring channels share a scale, else None.
    """

    granularity: str
    axes: Axes
    groups: int
    params: tuple[int, ...]
    split: int | None = None

    @staticmethod
    def of(granularity: str, axes: Axes, shape: tuple[int, ...]) -> Layout:
        """Layout of a tensor of `shape`. Raises ValueError where the granularity does not fit it."""
        ndim = len(shape)
        if granularity == "tensor":
            kept: tuple[int, ...] = ()
        elif granularity == "channel":
            kept = (axes.channel % ndim,)
        elif granularity in _HEADED:
            if axes.head is None:
                has = "query, key, probs, value have"
                text = f"granularity {granularity!r} needs a head dimension; shape {shape} has none ({has})"
                raise ValueError(Problem(text, "granularity", granularity))
            kept = (axes.head, *((axes.head + 1,) if granularity == "head_token" else ()))
            kept += (axes.channel % ndim,) if granularity == "head_channel" else ()
        elif granularity == "token":
            if not axes.token:
                text = f"granularity 'token' needs a token dimension; a weight or image of shape {shape} has none"
                raise ValueError(Problem(text, "granularity", granularity))
            kept = (axes.head + 1,) if axes.head is not None else tuple(range(1, ndim - 1))
        elif granularity.startswith("group:"):
            return Layout._grouped(granularity, axes, shape)
        else:
            valid = ("tensor", "channel", *_HEADED, "token", "group:N")
            text = f"unknown granularity {granularity!r}; valid: {', '.join(valid)}"
            raise ValueError(Problem(text, "granularity", granularity, valid))
        params = tuple(size if dim in kept else 1 for dim, size in enumerate(shape))
        return Layout(granularity, axes, math.prod(params), params)

    @staticmethod
    def _grouped(granularity: str, axes: Axes, shape: tuple[int, ...]) -> Layout:
        size = int(granularity.removeprefix("group:"))
        if axes.weight:
            rows, inputs = shape[0], math.prod(shape[1:])
            if inputs % size:
                text = (
                    f"granularity {granularity!r}: {inputs} inputs per output channel (shape {shape}) "
                    f"are no multiple of {size}"
                )
                raise ValueError(Problem(text, "granularity", granularity))
            return Layout(granularity, axes, rows * inputs // size, (rows, inputs // size, 1), size)
        channel = axes.channel % len(shape)
        if shape[channel] % size:
            text = f"granularity {granularity!r}: {shape[channel]} channels (shape {shape}) are no multiple of {size}"
            raise ValueError(Problem(text, "granularity", granularity))
        groups = shape[channel] // size
        params = [1] * (len(shape) + 1)
        params[channel] = groups
        return Layout(granularity, axes, groups, tuple(params), size)

    def expand(self, x: Tensor) -> Tensor:
        """View of x against which `params`-shaped tensors broadcast."""
        if self.split is None:
            return x
        if self.axes.weight:
            return x.reshape(x.shape[0], -1, self.split)
        grouped: Tensor = x.unflatten(self.axes.channel, (-1, self.split))
        return grouped

    def collapse(self, x: Tensor, shape: torch.Size) -> Tensor:
        """Inverse of `expand`."""
        return x if self.split is None else x.reshape(shape)

    def rows(self, x: Tensor) -> Tensor:
        """(G, N) matrix: one row for each group."""
        x = self.expand(x)
        kept = [dim for dim, size in enumerate(self.params) if size > 1]
        others = [dim for dim in range(x.ndim) if dim not in kept]
        return x.permute(*kept, *others).reshape(self.groups, -1)

    def view(self, parameter: Tensor) -> Tensor:
        """A (G,) parameter in broadcastable shape."""
        return parameter.view(self.params)
