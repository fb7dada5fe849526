"""Scales and zero points while they are learned (LSQ, arXiv 1902.08153)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitq.quant.affine import LEAST_SCALE, lsq_factor, lsq_round_trip
from vitq.quant.logarithmic import LogQuantizer
from vitq.quant.uniform import UniformQuantizer


class LearnedRange(nn.Module):
    """Stands in for a site's uniform quantizer while its scale or zero point is learned.

    The quantizer's `scale` and `zero_point` are leaf tensors with gradients meanwhile, each where it is learned.
    batched: dimension 0 of what passes is that of images or windows, and not of output channels.
    """

    def __init__(self, uniform: UniformQuantizer, scale: bool, zero_point: bool, batched: bool):
        super().__init__()
        self.uniform, self.batched = uniform, batched
        if scale:
            uniform.scale = uniform.scale.clone().requires_grad_(True)
        if zero_point:
            uniform.zero_point = uniform.zero_point.clone().requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        uniform, layout = self.uniform, self.uniform.layout
        expanded = layout.expand(x)
        shared = expanded.numel() // ((len(x) if self.batched else 1) * uniform.scale.numel())
        scale, zero = uniform.views()
        quantized = lsq_round_trip(expanded.float(), scale, zero, uniform.codes, lsq_factor(shared, uniform.codes))
        return layout.collapse(quantized.to(x.dtype), x.shape)

    @torch.no_grad()
    def settle(self) -> None:
        """Give the quantizer ordinary parameters again: a positive scale, an integer zero point where it was learned.

        A zero point that was not learned stays as it was: `reparameterize` with zero_point=mean leaves it between two
        codes.
        """
        uniform = self.uniform
        if uniform.zero_point.requires_grad:
            uniform.zero_point = uniform.zero_point.round()
        uniform.scale = uniform.scale.abs().clamp(min=LEAST_SCALE)
        uniform.refresh()


class RelativeScale(nn.Module):
    """Stands in for a site's quantizer while its scale is learned as s = s₀·e^r: a rate means the same at every site.

    r: the leaf tensor, (G,), 0 at first. The value is the quantizer's own, bit for bit. Gradients where x lies between
    the least and the largest level: 1 to x, x̂ − x to r; outside 0 and x̂, an offset aside (LSQ, eq. 3, times s). Where
    each image has a factor of its own (predictor.py), s is the static one; what predicts the factor has gradients too.
    """

    def __init__(self, quantizer: UniformQuantizer | LogQuantizer):
        super().__init__()
        self.quantizer = quantizer
        self.before = quantizer.scale.clone()
        self.r = torch.zeros_like(self.before).requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        quantizer, layout = self.quantizer, self.quantizer.layout
        expanded, scale = layout.expand(x).float(), self.before * self.r.exp()
        if isinstance(quantizer, UniformQuantizer):
            value = lsq_round_trip(expanded, *quantizer.ranges(x, scale), quantizer.codes, tight=True)
        else:
            value = self._logarithmic(expanded, layout.view(scale))
        return layout.collapse(value.to(x.dtype), x.shape)

    def _logarithmic(self, x: Tensor, scale: Tensor) -> Tensor:
        quantizer, shift = self.quantizer, float(getattr(self.quantizer, "shift", 0.0))
        parameters = (scale.detach(), *quantizer.views()[1:])
        seen = x.detach() + shift
        value = quantizer._round_trip(seen, *parameters)
        ends = [quantizer._values(torch.full_like(parameters[0], end), *parameters) for end in (0, quantizer.last)]
        inside = (seen >= torch.minimum(*ends)) & (seen <= torch.maximum(*ends))
        # What has the gradients is 0 itself.
        slope = torch.where(inside, value - seen, value) / parameters[0]
        return value - shift + (x - x.detach()) * inside + (scale - scale.detach()) * slope

    @torch.no_grad()
    def settle(self) -> None:
        """Give the quantizer the scale that was learned."""
        self.quantizer.scale = (self.before * self.r.exp()).clamp(min=LEAST_SCALE)
        self.quantizer.refresh()
