"""Uniform quantizer: x ≈ s·(q − z), q = clamp(round(x/s) + z, 0, 2^b − 1)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from vitq.quant.distribution import Distribution
from vitq.quant.layout import Layout
from vitq.quant.quantizer import QUANTIZERS, Quantizer
from vitq.quant.search import CANDIDATES, PERCENTILES, SHRINK, best, candidates

# Least scale: 1/s stays finite in float32.
_TINY = 1e-30


@QUANTIZERS.register("uniform")
class UniformQuantizer(Quantizer):
    """Affine quantizer, asymmetric by default.

    scale, zero_point: (G,) float32; the zero point is integer-valued, except where the step `reparameterize` is told to
    repeat public code (then there are no codes, and `encode` raises). `symmetric` fixes it to the middle code 2^(b−1),
    which leaves 2^(b−1) codes for negative values and 2^(b−1) − 1 for positive ones (two's complement).
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
        self._learned = self._batched = False

    def fit(self, distribution: Distribution, layout: Layout) -> None:
        percentiles, steps, to = (self.settings[key] for key in ("percentiles", "candidates", "shrink_to"))
        tried = candidates(distribution, self.range, percentiles, steps, to)
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
        # 1/s, s and the bounds of round(x/s) as numbers. Four plain operations take a quarter of the time of torch's
        # fake_quantize_per_tensor_affine on CPU, which is not vectorized.
        self._numbers = None
        if self.layout is not None and self.layout.groups == 1:
            zero = float(self.zero_point[0])
            if zero.is_integer():
                inverse, scale = float(self.scale.reciprocal()[0]), float(self.scale[0])
                self._numbers = (inverse, scale, -zero, self.codes - 1 - zero)

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
        exact_zero = torch.full_like(zero, self.codes / 2) if self.symmetric else (value < 0).to(zero.dtype)
        return torch.where(constant, exact_scale, scale), torch.where(constant, exact_zero, zero)

    def encode(self, x: Tensor) -> Tensor:
        layout = self._layout()
        if layout.groups == 1 and not float(self.zero_point[0]).is_integer():
            raise ValueError(
                f"zero point {float(self.zero_point[0])} is not an integer: there are 2^b + 1 levels, as public "
                "I&S-ViT code has them, and no b-bit codes; use zero_point=integer in the step reparameterize"
            )
        scale, zero = layout.view(self.scale), layout.view(self.zero_point)
        codes = (torch.round(layout.expand(x).float() * scale.reciprocal()) + zero).clamp_(0, self.codes - 1)
        return layout.collapse(codes, x.shape).to(torch.int64)

    def decode(self, codes: Tensor) -> Tensor:
        layout = self._layout()
        scale, zero = layout.view(self.scale), layout.view(self.zero_point)
        return layout.collapse((layout.expand(codes).to(scale.dtype) - zero) * scale, codes.shape)

    def forward(self, x: Tensor) -> Tensor:
        # A compiler must not take the numbers for constants: equal blocks share their code.
        plain = self._numbers is not None and x.dtype == torch.float32 and not torch.compiler.is_compiling()
        if plain and not x.requires_grad and self._numbers is not None:
            inverse, scale_, low, high = self._numbers
            return x.mul(inverse).clamp_(low, high).round_().mul_(scale_)
        layout = self._layout()
        expanded = layout.expand(x)
        scale, zero = layout.view(self.scale), layout.view(self.zero_point)
        if self._learned:
            rows = len(x) if self._batched else 1
            shared = expanded.numel() // (rows * self.scale.numel())
            quantized = _Learned.apply(expanded.float(), scale, zero, self.codes, shared)
        elif x.requires_grad:
            quantized = _ClippedStraightThrough.apply(expanded.float(), scale, zero, self.codes)
        else:
            quantized = _affine_roundtrip(expanded.float(), scale, zero, self.codes)
        return layout.collapse(quantized.to(x.dtype), x.shape)

    def learn(self, scale: bool, zero_point: bool, batched: bool) -> None:
        """Make scale and zero point leaf tensors with LSQ gradients, each where it is to be learned, until `freeze`.

        batched: dimension 0 is that of images or windows, and not of output channels.
        """
        self._layout()
        self._learned, self._batched, self._numbers = True, batched, None
        if scale:
            self.scale = self.scale.clone().requires_grad_(True)
        if zero_point:
            self.zero_point = self.zero_point.clone().requires_grad_(True)

    def freeze(self) -> None:
        """Ordinary parameters again after `learn`: a positive scale, an integer zero point where it was learned.

        Else it stays what it was: `reparameterize` with zero_point=mean leaves it between two codes.
        """
        if not self._learned:
            return
        self._learned = False
        self.scale = self.scale.detach().abs().clamp(min=_TINY)
        zero = self.zero_point.detach()
        self.zero_point = zero.round() if self.zero_point.requires_grad else zero
        self.refresh()


class _ClippedStraightThrough(torch.autograd.Function):
    """Round trip whose gradient is 1 where x is inside the range and 0 where it is clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, codes: int) -> Tensor:
        raw = (x * scale.reciprocal()).round_().add_(zero)
        ctx.save_for_backward((raw >= 0) & (raw <= codes - 1))
        return raw.clamp_(0, codes - 1).sub_(zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


class _Learned(torch.autograd.Function):
    """Round trip with gradients to x, scale and zero point (LSQ, arXiv 1902.08153, eq. 3; LSQ+ for the zero point).

    Inside the range ∂x̂/∂x = 1, ∂x̂/∂s = round(x/s) − x/s, ∂x̂/∂z = 0; where x is clipped to code q: 0, q − z, −s.
    Gradients of scale and zero point are multiplied by g = 1/√(n·(2^b − 1)), n (`shared`) the number of weights that
    share them, or of features: elements of one image or window (section 2.2). So parts of a batch add up to the batch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, codes: int, shared: int) -> Tensor:
        # One that is learned becomes a code (`freeze`); one that is not stays as the step before left it.
        if ctx.needs_input_grad[2]:
            zero = zero.round()
        ratio = x * scale.reciprocal()
        raw = ratio.round().add_(zero)
        code = raw.clamp(0, codes - 1)
        inside = raw == code
        ctx.save_for_backward(inside, torch.where(inside, code - zero - ratio, code - zero), scale, zero)
        ctx.factor = (shared * (codes - 1)) ** -0.5
        return code.sub_(zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inside, slope, scale, zero = ctx.saved_tensors
        gradient = gradients[0]
        passed = gradient * inside
        of_scale = of_zero = None
        if ctx.needs_input_grad[1]:
            of_scale = (gradient * slope).sum_to_size(scale.shape) * ctx.factor
        if ctx.needs_input_grad[2]:
            of_zero = ((gradient - passed) * -scale).sum_to_size(zero.shape) * ctx.factor
        return passed, of_scale, of_zero, None, None


def _affine_roundtrip(x: Tensor, scale: Tensor, zero: Tensor, codes: int) -> Tensor:
    return (x * scale.reciprocal()).round_().add_(zero).clamp_(0, codes - 1).sub_(zero).mul_(scale)
