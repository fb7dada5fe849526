"""QuantizeLinear and DequantizeLinear pairs as modules: what an integer runtime recognizes and runs in int8.

They have a meaning in an ONNX export alone (`torch.onnx.ops.symbolic`), and cannot be run by torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic

# The last one before QuantizeLinear's output_dtype, which ONNX Runtime gets wrong where it moves such nodes.
OPSET = 20

_Attributes = dict[str, int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]]


def quantize(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """saturate(round(x / scale) + zero) in the zero point's integer type; one scale for the tensor."""
    return symbolic("QuantizeLinear", (x, scale, zero), dtype=zero.dtype, shape=x.shape, version=OPSET)


def dequantize(codes: Tensor, scale: Tensor, zero: Tensor, axis: int | None = None) -> Tensor:
    """(codes − zero)·scale in float32; along `axis` one scale and zero point for each index."""
    attributes: _Attributes = {} if axis is None else {"axis": axis}
    shape, inputs = codes.shape, (codes, scale, zero)
    return symbolic("DequantizeLinear", inputs, attributes, dtype=torch.float32, shape=shape, version=OPSET)


class Round(nn.Module):
    """Round trip of a uniform quantizer with one scale through 8-bit integers.

        q = clamp(round(x/scale), low, high) + zero,  x ↦ scale·(q − kept)

    low, high: the extreme codes relative to zero; x is clipped first where they are not the ends of `dtype` (fewer than
    8 bits). kept: what is subtracted again: `zero`, or 0 where whoever reads the result accounts for the zero point, so
    that the integers enter a product as they are.
    """

    scale: Tensor
    zero: Tensor
    kept: Tensor

    def __init__(self, scale: float, low: int, high: int, dtype: torch.dtype, zero: int = 0, kept: int = 0):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("zero", torch.tensor(zero, dtype=dtype))
        self.register_buffer("kept", torch.tensor(kept, dtype=dtype))
        ends = torch.iinfo(dtype)
        if low + zero < ends.min or high + zero > ends.max:
            raise ValueError(f"codes from {low} to {high} around {zero} do not fit {dtype}")
        self.low = None if low + zero == ends.min else low * scale
        self.high = None if high + zero == ends.max else high * scale

    def forward(self, x: Tensor) -> Tensor:
        if self.low is not None or self.high is not None:
            x = x.clamp(self.low, self.high)
        return dequantize(quantize(x, self.scale, self.zero), self.scale, self.kept)


class Above(nn.Module):
    """Gives `inner` only what lies above a threshold, or only what does not, and zero for everything else."""

    def __init__(self, threshold: float, above: bool, inner: nn.Module):
        super().__init__()
        self.threshold, self.above, self.inner = threshold, above, inner

    def forward(self, x: Tensor) -> Tensor:
        chosen = x > self.threshold if self.above else x <= self.threshold
        out: Tensor = self.inner(torch.where(chosen, x, 0.0))
        return out


class Beyond(nn.Module):
    """What x exceeds `start` by, given to `inner`; nothing where it does not."""

    def __init__(self, start: float, inner: Round):
        super().__init__()
        self.start, self.inner = start, inner

    def forward(self, x: Tensor) -> Tensor:
        # `inner` takes what is negative for 0.
        out: Tensor = self.inner(x - self.start)
        return out


class Codes(nn.Module):
    """A weight in int8: codes·scale, one scale for each index of `axis`."""

    codes: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, codes: Tensor, scale: Tensor, axis: int):
        super().__init__()
        self.axis = axis
        self.register_buffer("codes", codes.to(torch.int8).contiguous())
        self.register_buffer("scale", scale.contiguous())
        self.register_buffer("zero", torch.zeros(len(scale), dtype=torch.int8))

    def forward(self) -> Tensor:
        return dequantize(self.codes, self.scale, self.zero, self.axis)
