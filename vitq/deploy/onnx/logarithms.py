"""Attention with log-type probabilities, for export: the same codes in float, in operations that runtimes are fast at.

Powers of two and selections by code, as the simulated quantizers have them, are slow passes over every probability in
OpenVINO and ONNX Runtime; natural logarithm and exponential are what they have kernels for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vitq.deploy.onnx.operands import NotIntegerError, rounding
from vitq.methods.ias_vit import SULQ
from vitq.quant.layers import QuantMatmul
from vitq.quant.logarithmic import Log2Quantizer, LogQuantizer, LogSqrt2Quantizer

# A last level below this is as good as the zero that it stands for: the simulated quantizer takes no probability below
# 1e-30 for itself.
_NOTHING = 1e-30


class LogCodes(nn.Module):
    """Round trip of log2 and log√2 codes with one scale, any shape."""

    def __init__(self, quantizer: LogQuantizer):
        super().__init__()
        scale, steps = float(quantizer.scale[0]), quantizer.steps_per_octave
        self.slope = steps / math.log(2)
        self.first = steps * math.log2(scale)
        self.scale, self.last = scale, quantizer.last
        self.zero = bool(quantizer.settings["zero_code"]) and scale * 2.0 ** (-self.last / steps) > _NOTHING

    def forward(self, x: Tensor) -> Tensor:
        # The logarithm of 0 is −∞, whose code is the last one.
        codes = (x.log() * -self.slope + self.first).round().clamp(0, self.last)
        values = (codes * (-1 / self.slope)).exp() * self.scale
        return torch.where(codes < self.last, values, 0.0) if self.zero else values


class ShiftedLogCodes(nn.Module):
    """Round trip of I&S-ViT's shift-uniform-log2 codes with one scale, any shape."""

    def __init__(self, quantizer: SULQ):
        super().__init__()
        self.step, self.offset = float(quantizer.scale[0]), float(quantizer.zero_point[0])
        self.eta, self.last = float(quantizer.eta[0]), quantizer.last

    def forward(self, x: Tensor) -> Tensor:
        codes = ((x + self.eta).log() * (-1 / (self.step * math.log(2))) + self.offset).round()
        octaves = ((codes.clamp(0, self.last) - self.offset) * self.step).round()
        return (octaves * -math.log(2)).exp() - self.eta


class LogContext(nn.Module):
    """Takes the place of a `QuantMatmul` with log-type codes on its left: a product in float.

    value: int8 where it can be, so that what moves to the product is int8. Raises NotIntegerError for another left
    operand.
    """

    def __init__(self, matmul: QuantMatmul):
        super().__init__()
        site = matmul.left_site
        quantizer = site.quantizer if site.on else None
        if quantizer is None or quantizer._layout().groups > 1:
            raise NotIntegerError(f"{site.name} is not quantized, or has several scales")
        self.probs: nn.Module
        if type(quantizer) is Log2Quantizer or type(quantizer) is LogSqrt2Quantizer:
            self.probs = LogCodes(quantizer)
        elif type(quantizer) is SULQ:
            self.probs = ShiftedLogCodes(quantizer)
        else:
            raise NotIntegerError(f"{site.name}: {type(quantizer).__name__} has no faster form")
        self.value: nn.Module = rounding(matmul.right_site)

    def forward(self, a: Tensor, b: Tensor, transpose: bool = False) -> Tensor:
        return torch.matmul(self.probs(a), self.value(b))
