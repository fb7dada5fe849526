"""Learned rounding of weights (AdaRound, Nagel et al. 2020, arXiv 2004.10568)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitq.quant.uniform import UniformQuantizer

# Stretch of the rectified sigmoid (eq. 23).
_ZETA, _GAMMA = 1.1, -0.1


class LearnedRounding(nn.Module):
    """Stands in for a weight's uniform quantizer while its rounding is learned.

        ŵ = s·(clamp(⌊w/s⌋ + h(V) + z, 0, 2^b − 1) − z),  h(V) = clamp(σ(V)·(ζ − γ) + γ, 0, 1)

    logits: V, the shape of the weight, started so that h(V) is the weight's own fraction: the soft weight equals w.
    """

    def __init__(self, uniform: UniformQuantizer, weight: Tensor):
        super().__init__()
        self.uniform = uniform
        layout = uniform.layout
        scaled = layout.expand(weight) * layout.view(uniform.scale).reciprocal()
        fraction = (scaled - scaled.floor()).clamp(0.01, 0.99)
        start = torch.log((fraction - _GAMMA) / (_ZETA - fraction))
        self.logits = nn.Parameter(layout.collapse(start, weight.shape).contiguous())

    def share(self) -> Tensor:
        """h(V), in [0, 1]."""
        return (torch.sigmoid(self.logits) * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)

    def forward(self, weight: Tensor) -> Tensor:
        return self._round(weight, self.share())

    @torch.no_grad()
    def harden(self, weight: Tensor) -> Tensor:
        """The weight with every fraction rounded the way it was learned."""
        return self._round(weight, (self.logits >= 0).to(weight.dtype))

    def regularizer(self, beta: float) -> Tensor:
        """Σ 1 − |2h − 1|^β: drives h to 0 or 1 (eq. 24)."""
        return (1 - (2 * self.share() - 1).abs().pow(beta)).sum()

    def _round(self, weight: Tensor, share: Tensor) -> Tensor:
        uniform = self.uniform
        layout = uniform.layout
        scale, zero = uniform.views()
        floor = (layout.expand(weight.detach()) * scale.detach().reciprocal()).floor()
        codes = (floor + layout.expand(share) + zero).clamp(0, uniform.codes - 1)
        return layout.collapse((codes - zero) * scale, weight.shape)
