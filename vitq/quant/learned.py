"""Learned scales and zero points of uniform quantizers (LSQ, arXiv 1902.08153)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitq.quant.affine import LEAST_SCALE, lsq_round_trip
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
        quantized = lsq_round_trip(expanded.float(), scale, zero, uniform.codes, shared)
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
