"""Per-channel scale and shift across a norm → consumers link, folded into parameters; the function stays the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitq.quant.layers import QuantConv2d, QuantLinear


@torch.no_grad()
def fold(norm: nn.Module, consumers: Sequence[QuantLinear | QuantConv2d], ratio: Tensor, shift: Tensor) -> None:
    """x̃ = (x + shift) / ratio in the norm's output, undone in the consumers: the function stays the same.

    ratio, shift: (C,), ratio > 0. Raises ValueError for a shift where the norm has no bias.
    """
    weight, bias, shifted = norm.get_parameter("weight"), bias_of(norm), bool((shift != 0).any())
    weight.div_(ratio)
    if bias is not None:
        bias.add_(shift).div_(ratio)
    elif shifted:
        raise ValueError("fold: a shift needs a norm with a bias")
    for layer in consumers:
        if shifted:
            moved = layer.weight @ shift
            layer.bias = nn.Parameter(-moved if layer.bias is None else layer.bias - moved)
        layer.weight.mul_(ratio)


def bias_of(norm: nn.Module) -> nn.Parameter | None:
    """None for norms without one (RMSNorm, LayerNorm(bias=False))."""
    bias = getattr(norm, "bias", None)
    return bias if isinstance(bias, nn.Parameter) else None
