"""Uniform quantizers whose range is each image's own, at inference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from vitq.quant.affine import lsq_factor, lsq_round_trip, round_trip
from vitq.quant.uniform import UniformQuantizer


class RangeSource(ABC):
    """Where the ranges of a batch come from. moves_zero: whether the zero point may differ from the static one."""

    moves_zero = True

    @abstractmethod
    def parameters(self, uniform: UniformQuantizer, x: Tensor, static: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, zero point) for x (R, …) float32: both (R, …) so that they broadcast; R is B times the windows.

        static: (G,), the scale that those of images are relative to, where they are.
        """

    def parameter_bytes(self) -> int:
        """Bytes of what the source stores for one site beside the static scale."""
        return 0


class PerImageUniform(UniformQuantizer):
    """Used instead of a fitted uniform quantizer; its scale and zero point remain what the source starts from."""

    packable: ClassVar[bool] = False

    def __init__(self, static: UniformQuantizer, source: RangeSource):
        super().__init__(
            static.bits, static.granularity, static.axes, static.range_search, static.symmetric, **static.settings
        )
        self.source = source
        self.constants = static.constants
        self.assign(static.layout, static.scale, static.zero_point)

    def static(self) -> UniformQuantizer:
        static = self.unfitted(UniformQuantizer)
        static.constants = self.constants
        static.assign(self.layout, self.scale, self.zero_point)
        return static

    def encode(self, x: Tensor) -> Tensor:
        codes = self._codes(self.layout.expand(x).float(), *self.ranges(x, self.scale))
        return self.layout.collapse(codes, x.shape).to(torch.int64)

    def decode(self, codes: Tensor) -> Tensor:
        raise NotImplementedError("codes of a per-image range mean something only with the image; use forward")

    def ranges(self, x: Tensor, static: Tensor) -> tuple[Tensor, Tensor]:
        return self.source.parameters(self, x, static)

    def forward(self, x: Tensor) -> Tensor:
        scale, zero = self.ranges(x, self.scale)
        expanded = self.layout.expand(x).float()
        if scale.requires_grad or zero.requires_grad or x.requires_grad:
            quantized = lsq_round_trip(
                expanded, scale, zero, self.codes, lsq_factor(expanded.numel() // scale.numel(), self.codes)
            )
        elif self._numbers is not None and not self.source.moves_zero:
            # As many passes as a static range takes.
            low, high = self._numbers[2:]
            quantized = (expanded * scale.reciprocal()).clamp_(low, high).round_().mul_(scale)
        else:
            quantized = round_trip(expanded, scale, zero, self.codes)
        return self.layout.collapse(quantized.to(x.dtype), x.shape)

    def parameter_bytes(self) -> int:
        return super().parameter_bytes() + self.source.parameter_bytes()


class Batch:
    """Knows how many images are under way, so that windows of one image stay together.

    module: what images enter first, (B, 3, H, W).
    """

    def __init__(self, module: nn.Module):
        self.images = 1
        module.register_forward_pre_hook(self._see)

    def _see(self, _model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.images = len(inputs[0])


class Extrema(RangeSource):
    """Minimum and maximum of each image: what a just-in-time dynamic quantizer does."""

    def __init__(self, batch: Batch):
        self.batch = batch

    def parameters(self, uniform: UniformQuantizer, x: Tensor, static: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.ends(_grouped(uniform, x, self.batch.images))
        windows = len(x) // self.batch.images
        low, high = low.repeat_interleave(windows, dim=0), high.repeat_interleave(windows, dim=0)
        return _affine(uniform, low, high, uniform.layout.expand(x).ndim)

    def ends(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, G) each: least and largest of (B, G, N)."""
        low, high = torch.aminmax(values, dim=-1)
        return low, high


class Percentile(Extrema):
    """The percentiles (1 − p, p) of each image, exact order statistics."""

    def __init__(self, batch: Batch, p: float):
        super().__init__(batch)
        self.p = p

    def ends(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, G) each: the two percentiles of (B, G, N)."""
        # The k-th of n values cuts off a share of (k − 1)/(n − 1) below it.
        skip = round((1 - self.p) * (values.shape[-1] - 1))
        high = values.topk(skip + 1, dim=-1).values[..., -1]
        low = values.topk(skip + 1, dim=-1, largest=False).values[..., -1]
        return low, high


def _grouped(uniform: UniformQuantizer, x: Tensor, images: int) -> Tensor:
    """(B, G, N): the values of each group of each image; windows of one image lie side by side."""
    layout = uniform.layout
    expanded = layout.expand(x).float()
    kept = [dim for dim in range(1, expanded.ndim) if layout.groups > 1 and layout.params[dim] > 1]
    others = [dim for dim in range(1, expanded.ndim) if dim not in kept]
    rows = expanded.permute(0, *kept, *others).reshape(images, len(x) // images, layout.groups, -1)
    return rows.transpose(1, 2).flatten(2)


def _affine(uniform: UniformQuantizer, low: Tensor, high: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of ranges (R, G), as tensors that broadcast against the expanded input."""
    low, high = uniform.widen(low, high)
    scale, zero = uniform.with_constants(high <= low, low, *uniform.affine(low, high))
    return spread(uniform, scale, ndim), spread(uniform, zero, ndim)


def spread(uniform: UniformQuantizer, parameter: Tensor, ndim: int) -> Tensor:
    """(R, G), or (R, 1) for a value that all groups share, → broadcastable against the expanded input of R rows."""
    if parameter.shape[1] > 1:
        return parameter.reshape(len(parameter), *uniform.layout.params[1:])
    # A range that was folded into one has a layout without dimensions.
    return parameter.reshape(len(parameter), *(1,) * (ndim - 1))
