"""Logarithmic quantizers for non-negative tensors: log2 and log√2."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vitq.errors import Problem
from vitq.quant.affine import LEAST_SCALE
from vitq.quant.distribution import Distribution
from vitq.quant.layout import Layout
from vitq.quant.quantizer import NON_NEGATIVE, ElementwiseQuantizer, check_non_negative, register_quantizer
from vitq.quant.search import CANDIDATES, PERCENTILES, best, candidates


class LogQuantizer(ElementwiseQuantizer):
    """x ≈ s·2^(−q/k), q = clamp(round(−k·log2(x/s)), 0, Q), with k steps to the octave.

    scale: (G,) float32, the value of code 0. Values are non-negative; negative ones are taken as zero.

    Options: zero_code: the last code 2^b − 1 decodes to exactly zero, so that Q = 2^b − 2; without it Q = 2^b − 1 and
    the least value is s·2^(−Q/k). levels: `strict` is 2^b codes, the zero one of them. `public` repeats public code of
    RepQ-ViT and ERQ, to compare with its figures: the zero stands *beside* 2^b powers, Q = 2^b − 1, one level more than
    b bits hold (`encode` returns 2^b too). percentiles, candidates: see search.py.
    """

    options: ClassVar[dict[str, Any]] = {
        "percentiles": PERCENTILES,
        "candidates": CANDIDATES,
        "zero_code": False,
        "levels": "strict",
    }
    kinds: tuple[str, ...] = NON_NEGATIVE
    may_be_symmetric = False
    parameter_names: ClassVar[tuple[str, ...]] = ("scale",)
    steps_per_octave = 1
    scale: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.settings["levels"] == "public" and not self.settings["zero_code"]:
            text = "levels=public puts a zero beside 2^b powers; zero_code=false has none; make it true"
            raise ValueError(Problem(text, "options.zero_code", self.settings["zero_code"], [True]))

    def fit(self, distribution: Distribution, layout: Layout) -> None:
        check_non_negative(self, distribution)
        tried = candidates(distribution, self.range_search, self.settings["percentiles"], self.settings["candidates"])

        def roundtrip(low: Tensor, high: Tensor) -> Tensor:
            return self._round_trip(distribution.values, high.clamp(min=LEAST_SCALE))

        _, high = best(distribution, tried, roundtrip)
        # A constant group is code 0 exactly; an all-zero group gets scale 1 and the smallest value there is.
        high = torch.where(distribution.constant, distribution.high, high)
        self.set_parameters(layout, scale=torch.where(high <= 0, torch.ones_like(high), high).clamp(min=LEAST_SCALE))

    def _codes(self, x: Tensor, *parameters: Tensor) -> Tensor:
        (scale,) = parameters
        octaves = torch.log2((x / scale).clamp_(min=LEAST_SCALE)).neg_()
        codes = octaves.mul_(self.steps_per_octave).round_()
        # Beyond the last power: the zero code, or the last power itself.
        return codes.clamp_(0, self.last)

    def _values(self, codes: Tensor, *parameters: Tensor) -> Tensor:
        (scale,) = parameters
        values = torch.exp2(codes * (-1.0 / self.steps_per_octave)) * scale
        if self.settings["zero_code"]:
            values = values.masked_fill_(codes == self.last, 0.0)
        return values

    def runtime_form(self) -> nn.Module | None:
        return LogCodes(self)


@register_quantizer("log2")
class Log2Quantizer(LogQuantizer):
    """One code for each power of two: a multiplication by it is a bit shift (FQ-ViT, I&S-ViT's baseline)."""

    steps_per_octave = 1


@register_quantizer("log_sqrt2")
class LogSqrt2Quantizer(LogQuantizer):
    """Two codes for each power of two (RepQ-ViT eq. 10–13).

    RepQ-ViT's change of base is part of it: s·√2^(−q) = [s·(1 + odd(q)·(√2 − 1))]·2^(−⌈q/2⌉), so that inference uses
    bit shifts and one of two scales chosen by the code's parity; both forms give the same value.
    """

    steps_per_octave = 2


class LogCodes(nn.Module):
    """Round trip of log2 and log√2 codes with one scale, any shape, by natural logarithm and exponential."""

    def __init__(self, quantizer: LogQuantizer):
        super().__init__()
        scale, steps = float(quantizer.scale[0]), quantizer.steps_per_octave
        self.slope = steps / math.log(2)
        self.first = steps * math.log2(scale)
        self.scale, self.last = scale, quantizer.last
        # A last level below LEAST_SCALE is as good as the zero that it stands for: `forward` has no lesser value.
        self.zero = bool(quantizer.settings["zero_code"]) and scale * 2.0 ** (-self.last / steps) > LEAST_SCALE

    def forward(self, x: Tensor) -> Tensor:
        # The logarithm of 0 is −∞, whose code is the last one.
        codes = (x.log() * -self.slope + self.first).round().clamp(0, self.last)
        values = (codes * (-1 / self.slope)).exp() * self.scale
        return torch.where(codes < self.last, values, 0.0) if self.zero else values
