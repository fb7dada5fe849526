"""Uniform quantizer: x ≈ s·(q − z), q = clamp(round(x/s) + z, 0, 2^b − 1)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from vitq.errors import Problem
from vitq.quant.affine import LEAST_SCALE, round_trip
from vitq.quant.distribution import Distribution
from vitq.quant.integer import IntegerPart, NotIntegerError
from vitq.quant.layout import Layout
from vitq.quant.quantizer import ElementwiseQuantizer, register_quantizer
from vitq.quant.search import CANDIDATES, PERCENTILES, SHRINK, best, candidates


@register_quantizer("uniform")
class UniformQuantizer(ElementwiseQuantizer):
    """Affine quantizer, asymmetric by default.

    scale, zero_point: (G,) float32; the zero point is integer-valued, except where the step `reparameterize` repeats
    public code (then there are no codes, and `encode` raises). `symmetric` fixes it to the middle code 2^(b−1), which
    leaves 2^(b−1) codes for negative values and 2^(b−1) − 1 for positive ones (two's complement).
    constants: (G,) value of each group that held a single value when it was fitted, NaN for the others.

    Options: percentiles, candidates, shrink_to (see search.py); include_zero: widen the range so that zero is a code
    exactly, as integer arithmetic wants it; channel-wise post-LayerNorm ranges that are to be reparameterized do
    without (RepQ-ViT).
    """

    options: ClassVar[dict[str, Any]] = {
        "percentiles": PERCENTILES,
        "candidates": CANDIDATES,
        "shrink_to": SHRINK[0],
        "include_zero": True,
    }
    parameter_names = ("scale", "zero_point")
    scale: Tensor
    zero_point: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._numbers: tuple[float, float, float, float] | None = None
        self.constants = torch.zeros(0)

    def fit(self, distribution: Distribution, layout: Layout) -> None:
        percentiles, steps, to = (self.settings[key] for key in ("percentiles", "candidates", "shrink_to"))
        tried = self.affine(*self.widen(*candidates(distribution, self.range_search, percentiles, steps, to)))

        def roundtrip(scale: Tensor, zero: Tensor) -> Tensor:
            return round_trip(distribution.values, scale, zero, self.codes)

        fitted = best(distribution, tried, roundtrip)
        self.assign(layout, *self.with_constants(distribution.constant, distribution.low, *fitted))
        self.constants = torch.where(distribution.constant, distribution.low, torch.nan)

    def assign(self, layout: Layout, scale: Tensor, zero_point: Tensor) -> None:
        """Set the parameters directly: (G,) each, in the order of the layout's groups."""
        self.set_parameters(layout, scale=scale, zero_point=zero_point)

    def refresh(self) -> None:
        # 1/s, s and the bounds of round(x/s) as numbers. Four plain operations take a quarter of the time of torch's
        # fake_quantize_per_tensor_affine on CPU, which is not vectorized.
        self._numbers = None
        if self.fitted and self.layout.groups == 1:
            zero = float(self.zero_point[0])
            if zero.is_integer():
                inverse, scale = float(self.scale.reciprocal()[0]), float(self.scale[0])
                self._numbers = (inverse, scale, -zero, self.codes - 1 - zero)

    def widen(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Ranges that hold [low, high] and what the settings ask for beside it: symmetry, or zero. Any shape."""
        if self.symmetric:
            # −2^(b−1)·s … (2^(b−1) − 1)·s must cover both ends.
            half = self.codes / 2
            bound = torch.maximum(-low, high * (half / (half - 1))).clamp(min=0)
            return -bound, bound * (half - 1) / half
        if self.settings["include_zero"]:
            return low.clamp(max=0), high.clamp(min=0)
        return low, high

    def affine(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, zero point) of widened ranges; the shape of `low`."""
        scale = ((high - low) / (self.codes - 1)).clamp(min=LEAST_SCALE)
        if self.symmetric:
            return scale, torch.full_like(scale, self.codes / 2)
        return scale, torch.round(-low / scale)

    def with_constants(self, constant: Tensor, value: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, zero point); a `constant` group, of one value c only, gets s = |c| and codes for 0 and c."""
        exact_scale = torch.where(value == 0, torch.ones_like(value), value.abs()).clamp(min=LEAST_SCALE)
        exact_zero = torch.full_like(zero, self.codes / 2) if self.symmetric else (value < 0).to(zero.dtype)
        return torch.where(constant, exact_scale, scale), torch.where(constant, exact_zero, zero)

    def ranges(self, x: Tensor, static: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, zero point) for x, which they broadcast against once it is expanded, with the static scale (G,)."""
        return self.layout.view(static), self.views()[1]

    def encode(self, x: Tensor) -> Tensor:
        if self.layout.groups == 1 and not float(self.zero_point[0]).is_integer():
            text = (
                f"zero point {float(self.zero_point[0])} is not an integer: there are 2^b + 1 levels, as public "
                "I&S-ViT code has them, and no b-bit codes; use zero_point=integer in the step reparameterize"
            )
            raise ValueError(Problem(text, "zero_point", float(self.zero_point[0]), ["integer"]))
        return super().encode(x)

    def _codes(self, x: Tensor, *parameters: Tensor) -> Tensor:
        scale, zero = parameters
        return (torch.round(x * scale.reciprocal()) + zero).clamp_(0, self.codes - 1)

    def _values(self, codes: Tensor, *parameters: Tensor) -> Tensor:
        scale, zero = parameters
        return (codes - zero) * scale

    def forward(self, x: Tensor) -> Tensor:
        # A compiler must not take the numbers for constants: equal blocks share their code.
        plain = x.dtype == torch.float32 and not x.requires_grad and not torch.compiler.is_compiling()
        if plain and self._numbers is not None:
            inverse, step, low, high = self._numbers
            return x.mul(inverse).clamp_(low, high).round_().mul_(step)
        layout = self.layout
        scale, zero = self.views()
        quantized = round_trip(layout.expand(x).float(), scale, zero, self.codes)
        return layout.collapse(quantized.to(x.dtype), x.shape)

    @property
    def uneven(self) -> str | None:
        # A subclass computes its codes in some other way, or says itself that it does not.
        one_range = type(self) is UniformQuantizer
        return None if one_range else f"{self.type_name} has no scale that is fixed for the whole tensor"

    def integer_parts(self) -> list[IntegerPart]:
        if self.uneven:
            raise NotIntegerError(self.uneven)
        self._check_one_scale()
        zero = float(self.zero_point[0])
        if not zero.is_integer():
            raise NotIntegerError(f"its zero point {zero} is not a whole number")
        return [IntegerPart(float(self.scale[0]), -int(zero), self.codes - 1 - int(zero))]
