"""Uniform quantizer: x ≈ s·(q − z), q = clamp(round(x/s) + z, 0, 2^b − 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitq.quant.distribution import Distribution
from vitq.quant.layout import Layout
from vitq.quant.quantizer import QUANTIZERS, Quantizer, straight_through
from vitq.quant.search import CANDIDATES, PERCENTILES, best, candidates

# Least scale: 1/s stays finite in float32.
_TINY = 1e-30


@QUANTIZERS.register("uniform")
class UniformQuantizer(Quantizer):
    """Affine quantizer, asymmetric by default.

    scale, zero_point: (G,) float32; the zero point is integer-valued. `symmetric` fixes it to the middle code 2^(b−1),
    which leaves 2^(b−1) codes for negative values and 2^(b−1) − 1 for positive ones (two's complement).
    constants: (G,) value of each group that held a single value when it was fitted, NaN for the others.

    Options: percentiles, candidates (see search.py); include_zero: widen the range so that zero is a code exactly, as
    integer arithmetic wants it; channel-wise post-LayerNorm ranges that are to be reparameterized do without (RepQ-ViT).
    """

    options = {"percentiles": PERCENTILES, "candidates": CANDIDATES, "include_zero": True}
    parameter_names = ("scale", "zero_point")
    scale: Tensor
    zero_point: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._kernel: tuple[float, int] | None = None
        self.constants = torch.zeros(0)

    def fit(self, distribution: Distribution, layout: Layout) -> None:
        tried = candidates(distribution, self.range, self.settings["percentiles"], self.settings["candidates"])
        tried = [self._widen(low, high) for low, high in tried]

        def roundtrip(low: Tensor, high: Tensor) -> Tensor:
            scale, zero = self._affine(low, high)
            return _affine_roundtrip(distribution.values, scale.unsqueeze(1), zero.unsqueeze(1), self.codes)

        scale, zero = self._affine(*best(distribution, tried, roundtrip))
        scale, zero = self._constant_groups(distribution, scale, zero)
        self.assign(layout, scale, zero)

        self.constants = torch.where(distribution.constant, distribution.low, torch.nan)

    def assign(self, layout: Layout, scale: Tensor, zero_point: Tensor) -> None:
        """Set the parameters directly: (G,) each, in the order of the layout's groups."""
        self._set(layout, scale=scale, zero_point=zero_point)
        self.refresh()

    def refresh(self) -> None:
        """Recompute what is derived from the parameters. Call it after changing them in place."""
        one = self.layout is not None and self.layout.groups == 1
        zero = float(self.zero_point[0]) if one else 0.5
        # torch's fused kernel takes an integer zero point inside the range of codes.
        fits = one and zero.is_integer() and 0 <= zero < self.codes
        self._kernel = (float(self.scale[0]), int(zero)) if fits else None

    def _widen(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        if self.symmetric:
            # −2^(b−1)·s … (2^(b−1) − 1)·s must cover both ends.
            half = self.codes / 2
            bound = torch.maximum(-low, high * (half / (half - 1))).clamp(min=0)
            return -bound, bound * (half - 1) / half
        if self.settings["include_zero"]:
            return low.clamp(max=0), high.clamp(min=0)
        return low, high

    def _affine(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        scale = ((high - low) / (self.codes - 1)).clamp(min=_TINY)
        if self.symmetric:
            return scale, torch.full_like(scale, self.codes / 2)
        return scale, torch.round(-low / scale)

    def _constant_groups(self, distribution: Distribution, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
        """A group that holds one value c only gets s = |c| and codes for 0 and c: no division by an empty range."""
        constant, value = distribution.constant, distribution.low
        exact_scale = torch.where(value == 0, torch.ones_like(value), value.abs()).clamp(min=_TINY)
        if self.symmetric:
            exact_zero = torch.full_like(zero, self.codes / 2)
        else:
            exact_zero = (value < 0).to(zero.dtype)
        return torch.where(constant, exact_scale, scale), torch.where(constant, exact_zero, zero)

    def encode(self, x: Tensor) -> Tensor:
        layout = self._layout()
        scale, zero = layout.view(self.scale), layout.view(self.zero_point)
        codes = (torch.round(layout.expand(x).float() * scale.reciprocal()) + zero).clamp_(0, self.codes - 1)
        return layout.collapse(codes, x.shape).to(torch.int64)

    def decode(self, codes: Tensor) -> Tensor:
        layout = self._layout()
        scale, zero = layout.view(self.scale), layout.view(self.zero_point)
        return layout.collapse((layout.expand(codes).to(scale.dtype) - zero) * scale, codes.shape)

    def forward(self, x: Tensor) -> Tensor:
        if self._kernel is not None and x.dtype == torch.float32:
            return torch.fake_quantize_per_tensor_affine(x, *self._kernel, 0, self.codes - 1)
        layout = self._layout()
        expanded = layout.expand(x)
        quantized = _affine_roundtrip(
            expanded.detach(), layout.view(self.scale), layout.view(self.zero_point), self.codes
        )
        return layout.collapse(straight_through(expanded, quantized.to(x.dtype)), x.shape)


def _affine_roundtrip(x: Tensor, scale: Tensor, zero: Tensor, codes: int) -> Tensor:
    return (x * scale.reciprocal()).round_().add_(zero).clamp_(0, codes - 1).sub_(zero).mul_(scale)
