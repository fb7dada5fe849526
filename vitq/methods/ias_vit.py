"""I&S-ViT's shift-uniform-log2 quantizer (Zhong et al., arXiv 2311.10126, section 4.1, eq. 13–14)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vitq.errors import Problem
from vitq.quant.distribution import Distribution
from vitq.quant.layout import Layout
from vitq.quant.quantizer import NON_NEGATIVE, ElementwiseQuantizer, check_non_negative, register_quantizer
from vitq.quant.search import best

# Public code's candidates for the shift η.
ETAS = (0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1.0)


@register_quantizer("sulq")
class SULQ(ElementwiseQuantizer):
    """Uniform codes over a shifted logarithm, for post-softmax values in [0, 1].

        q = UQ(−log2(x + η), b),  x̂ = 2^round(−DeUQ(q)) − η

    The shift η opens the domain [0, 1] fully: small values, where post-softmax mass lies, keep levels that log2 spends
    on vanishing powers. The inner round keeps exponents integer, so that a multiplication stays a bit shift. η is the
    candidate of least squared error over the calibration set; the range of the logarithm is that of the data.

    scale, zero_point: (G,) of the uniform quantizer on the logarithm. eta: (G,).

    Options: etas; levels: `strict` is 2^b codes. `public` repeats public code, to compare with its figures: η is
    searched with 2^b codes, then the step is (max − min)/2^b and codes are clamped to [0, 2^b], one level more than b
    bits hold (`encode` returns 2^b too); the zero point is not rounded, so both ends of its range are levels.
    """

    options: ClassVar[dict[str, Any]] = {"etas": ETAS, "levels": "strict"}
    kinds = NON_NEGATIVE
    may_be_symmetric = False
    parameter_names = ("scale", "zero_point", "eta")
    scale: Tensor
    zero_point: Tensor
    eta: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not self.settings["etas"] or min(self.settings["etas"]) <= 0:
            text = f"etas={self.settings['etas']}; a list of positive shifts is needed, e.g. [0.01, 0.1]"
            raise ValueError(Problem(text, "options.etas", self.settings["etas"]))

    def fit(self, distribution: Distribution, layout: Layout) -> None:
        check_non_negative(self, distribution)
        low, high = distribution.low.clamp(min=0), distribution.high.clamp(min=0)
        values = distribution.values.clamp(min=0)
        etas = torch.tensor([[float(shift)] for shift in self.settings["etas"]], device=low.device)
        etas = etas.expand(-1, len(low))
        # Public code, too, searches with 2^b codes.
        tried = (*self._affine(low, high, etas, self.codes - 1), etas)

        def roundtrip(*columns: Tensor) -> Tensor:
            return self._values(self._codes(values, *columns).clamp_(max=self.codes - 1), *columns)

        eta = best(distribution, tried, roundtrip)[-1]
        scale, zero = self._affine(low, high, eta, self.last)
        self.set_parameters(layout, scale=scale, zero_point=zero, eta=eta)

    def _affine(self, low: Tensor, high: Tensor, eta: Tensor, last: int) -> tuple[Tensor, Tensor]:
        """Scale and zero point, (G,) each, that spread codes 0 … last over −log2(x + η) for x in [low, high]."""
        least, most = -torch.log2(high + eta), -torch.log2(low + eta)
        scale = (most - least) / last
        # A constant group spans no logarithm: one step of the value's own length, and 2^(that, rounded) stands for it.
        single = scale <= 0
        scale = torch.where(single, least.abs().clamp(min=1e-6), scale)
        zero = -least / scale
        if self.settings["levels"] == "strict":
            zero = zero.round()
        return scale, torch.where(single, (least < 0).to(least.dtype), zero)

    def _codes(self, x: Tensor, *parameters: Tensor) -> Tensor:
        scale, zero, eta = parameters
        return (x.clamp(min=0) + eta).log2_().neg_().div_(scale).add_(zero).round_().clamp_(0, self.last)

    def _values(self, codes: Tensor, *parameters: Tensor) -> Tensor:
        scale, zero, eta = parameters
        return torch.exp2(((codes - zero) * scale).round_().neg_()).sub_(eta)

    def runtime_form(self) -> nn.Module | None:
        return ShiftedLogCodes(self)


class ShiftedLogCodes(nn.Module):
    """Round trip of SULQ codes with one scale, any shape, by natural logarithm and exponential."""

    def __init__(self, quantizer: SULQ):
        super().__init__()
        self.step, self.offset = float(quantizer.scale[0]), float(quantizer.zero_point[0])
        self.eta, self.last = float(quantizer.eta[0]), quantizer.last

    def forward(self, x: Tensor) -> Tensor:
        codes = ((x + self.eta).log() * (-1 / (self.step * math.log(2))) + self.offset).round()
        octaves = ((codes.clamp(0, self.last) - self.offset) * self.step).round()
        return (octaves * -math.log(2)).exp() - self.eta
