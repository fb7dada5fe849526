"""Attention with log-type probabilities, for export: the same codes in float, in operations that runtimes are fast at.

Powers of two and selections by code, as the simulated quantizers have them, are slow passes over every probability in
OpenVINO and ONNX Runtime; natural logarithm and exponential are what they have kernels for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitq.deploy.onnx.operands import rounding
from vitq.quant.integer import NotIntegerError
from vitq.quant.layers import QuantMatmul


class LogContext(nn.Module):
    """Replaces a `QuantMatmul` with log-type codes on its left: a product in float.

    value: int8 where it can be, so that what moves to the product is int8. Raises NotIntegerError for another left
    operand.
    """

    def __init__(self, matmul: QuantMatmul):
        super().__init__()
        site = matmul.left_site
        quantizer = site.quantizer if site.on else None
        if quantizer is None or quantizer.layout.groups > 1:
            raise NotIntegerError(f"{site.name} is not quantized, or has several scales")
        probs = quantizer.runtime_form()
        if probs is None:
            raise NotIntegerError(f"{site.name}: {type(quantizer).__name__} has no faster form")
        self.probs: nn.Module = probs
        self.value: nn.Module = rounding(matmul.right_site)

    def forward(self, a: Tensor, b: Tensor, transpose: bool = False) -> Tensor:
        return torch.matmul(self.probs(a), self.value(b))
