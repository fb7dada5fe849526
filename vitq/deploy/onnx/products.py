"""Linear layers, convolutions and the two matmuls of attention as products of int8.

With x̂ = s·(q − z) of an input and ŵ = t·(p + o) of one output's weights, Σ x̂·ŵ + b is

    s·t·[Σ q·p + o·Σ q] + (b − s·z·t·Σ(p + o))

so that the input's zero point becomes part of the bias and its integers q enter the product as they are; o, the offset
of weights that int8 cannot hold centred (asymmetric, 8 bits), costs one sum for each token. All of it is exact in real
numbers; float32 sums are rounded otherwise than in the simulated model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitq.deploy.onnx.operands import parts, signed, uniform, weight
from vitq.deploy.onnx.qdq import Codes, dequantize
from vitq.quant.integer import IntegerPart, NotIntegerError
from vitq.quant.layers import QuantConv2d, QuantLinear, QuantMatmul


class IntegerLinear(nn.Module):
    """A linear layer over (…, in). Raises NotIntegerError where an operand is no int8.

    splits: the outputs are computed in so many equal parts (query, key and value of `qkv`), so that a runtime can round
    each part, which has a scale of its own, while it is in registers.
    """

    balance: Tensor | None

    def __init__(self, layer: QuantLinear, splits: int = 1):
        super().__init__()
        rounds, uniform_input = parts(layer.input_site)
        packed = weight(layer.weight_site, layer.weight)
        self.rounds = nn.ModuleList(rounds)
        self.register_buffer("balance", layer.balance)
        bias = _folded_bias(layer, uniform_input)
        size = len(bias) // splits
        self.products = nn.ModuleList(
            _IntegerProduct(
                packed.codes[start : start + size],
                packed.scale[start : start + size],
                None if packed.offset is None else packed.offset[start : start + size],
                bias[start : start + size],
            )
            for start in range(0, len(bias), size)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(self.inputs(x))[0]

    def inputs(self, x: Tensor, heads: int | None = None) -> list[Tensor]:
        """The input in int8, as a sum of parts. heads: x is (B, heads, N, in/heads), not yet (B, N, in)."""
        if self.balance is not None:
            x = x * (self.balance if heads is None else self.balance.view(heads, 1, -1))
        return [module(x) for module in self.rounds]

    def multiply(self, inputs: list[Tensor]) -> list[Tensor]:
        """The outputs, one tensor for each split."""
        sums = _sums(inputs) if any(product.offset is not None for product in self.products) else None
        return [product(inputs, sums) for product in self.products]


class _IntegerProduct(nn.Module):
    """Inputs in int8 times codes (out, in)·scale, and what the codes' offset and the bias add."""

    offset: Tensor | None

    def __init__(self, codes: Tensor, scale: Tensor, offset: Tensor | None, bias: Tensor):
        super().__init__()
        self.codes = Codes(codes.T, scale, axis=1)
        self.register_buffer("offset", None if offset is None else scale * offset)
        self.register_buffer("bias", bias)

    def forward(self, inputs: list[Tensor], sums: Tensor | None) -> Tensor:
        out = _multiplied(inputs, self.codes())
        if self.offset is not None and sums is not None:
            out = out + sums * self.offset
        return out + self.get_buffer("bias")


class IntegerConv(nn.Module):
    """A convolution over (B, C, H, W). Raises NotIntegerError.

    One that pads has the input's zero point taken off before: what it pads with is the real 0.
    """

    def __init__(self, layer: QuantConv2d):
        super().__init__()
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            raise NotIntegerError(f"{layer.input_site.name}: padding {layer.padding!r}, mode {layer.padding_mode}")
        padded = any(layer.padding)
        rounds, uniform_input = parts(layer.input_site, real=padded)
        packed = weight(layer.weight_site, layer.weight)
        if packed.offset is not None:
            raise NotIntegerError(f"{layer.weight_site.name}: asymmetric codes of a convolution leave int8")
        if len(rounds) > 1:
            raise NotIntegerError(f"{layer.input_site.name}: twin codes of a convolution")
        self.round, self.codes = rounds[0], Codes(packed.codes, packed.scale, axis=0)
        self.stride, self.dilation, self.groups = layer.stride, layer.dilation, layer.groups
        self.padding: tuple[int, ...] = layer.padding
        self.kernel_size = layer.kernel_size  # read by the module around it, where that pads (DaViT)
        self.register_buffer("bias", _folded_bias(layer, None if padded else uniform_input))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.get_buffer("bias")
        out = F.conv2d(self.round(x), self.codes(), None, self.stride, self.padding, self.dilation, self.groups)
        return out + bias.view(1, -1, 1, 1)


def _folded_bias(layer: QuantLinear | QuantConv2d, uniform_input: IntegerPart | None) -> Tensor:
    """b − s·z·Σŵ, (out,); summed in float64, because the two terms nearly cancel."""
    bias = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()
    if uniform_input is None:
        return bias.clone()
    sums = layer.weight.detach().double().flatten(1).sum(dim=1)
    return (bias.double() - uniform_input.scale * uniform_input.zero * sums).float()


class IntegerScores(nn.Module):
    """q·kᵀ of (B, h, N, d) each, up to what softmax does not see. Raises NotIntegerError.

    Adding a number to all scores of one query changes no probability, so the key's zero point z (k̂ = s·(q_k − z)) may
    stay in. The query's may not: it adds −δ·Σ_d q_k to each key's scores, δ its distance from the middle code.
    """

    def __init__(self, matmul: QuantMatmul, bare: bool):
        super().__init__()
        query, key = uniform(matmul.left_site), uniform(matmul.right_site)
        if not (bare or (key.centred and query.centred)):
            raise NotIntegerError(f"{matmul.right_site.name}: asymmetric, and the scores are quantized before softmax")
        self.query: nn.Module
        self.key: nn.Module
        self.query, shift = signed(query)
        self.key, _ = signed(key)
        self.shift = shift * query.scale

    def forward(self, a: Tensor, b: Tensor, transpose: bool = False) -> Tensor:
        # Transposed first: ONNX Runtime cannot move a transpose across a pair of other zero points.
        q, k = self.query(a), self.key(b.transpose(-2, -1))
        out = torch.matmul(q, k)
        if self.shift:
            out = out - self.shift * torch.matmul(_ones(1, k.shape[-2]), k)
        return out


class IntegerContext(nn.Module):
    """probs·v of (B, h, N, N) and (B, h, N, d). Raises NotIntegerError.

    An asymmetric value has codes δ off centre, v̂ = s·(q_v − δ): Σ p·v̂ = s·(Σ p·q_v − δ·Σ p).
    """

    def __init__(self, matmul: QuantMatmul):
        super().__init__()
        rounds, codes = parts(matmul.left_site)
        if codes is not None and codes.zero:
            if not codes.centred:
                raise NotIntegerError(f"{matmul.left_site.name}: probabilities with zero point {codes.zero}")
            rounds = [signed(codes)[0]]
        value = uniform(matmul.right_site)
        self.probs = nn.ModuleList(rounds)
        self.value: nn.Module
        self.value, shift = signed(value)
        self.shift = shift * value.scale

    def forward(self, a: Tensor, b: Tensor, transpose: bool = False) -> Tensor:
        v = self.value(b)
        probs = [module(a) for module in self.probs]
        out = _multiplied(probs, v)
        if self.shift:
            out = out - self.shift * _sums(probs)
        return out


def _sums(inputs: list[Tensor]) -> Tensor:
    """(…, 1): the sum of each row of all inputs, as a product of int8: runtimes sum in float32, and slowly."""
    return _multiplied(inputs, _ones(inputs[0].shape[-1], 1))


def _multiplied(parts: list[Tensor], right: Tensor) -> Tensor:
    total = torch.matmul(parts[0], right)
    for part in parts[1:]:
        total = total + torch.matmul(part, right)
    return total


def _ones(rows: int, columns: int) -> Tensor:
    """(rows, columns) of ones, in int8."""
    return dequantize(torch.ones(rows, columns, dtype=torch.int8), torch.tensor(1.0), torch.tensor(0, dtype=torch.int8))
