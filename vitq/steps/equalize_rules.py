"""How the channels of a linear layer's input are evened out: two rules, each with a strength between 0 and 1."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitq.quant.distribution import Distribution
from vitq.registry import Registry

# Weight columns below this share of the greatest one are taken for that much: a dead input has no scale of its own.
_LEAST = 1e-5

# (low, high, columns, strength) → ratio, all (C,): the exact extrema of each channel after its shift, the greatest
# absolute weight that reads it. The input is divided by the ratio, the weight multiplied.
Rule = Callable[[Tensor, Tensor, Tensor, float], Tensor]
BALANCES: Registry[Rule] = Registry("equalization rule", "vitq.steps", "vitq.methods")


@BALANCES.register("sq_b")
def sq_b(low: Tensor, high: Tensor, columns: Tensor, strength: float) -> Tensor:
    """MPTQ-ViT's SQ-b: s_j = max|X_j − b_j|^α / max|W_:,j|^(1−α); the shift −b_j is in `low` and `high` already.

    A channel that is zero throughout has no scale: it takes the geometric mean of the others.
    """
    reach = torch.maximum(low.abs(), high.abs()).double()
    columns = columns.double().clamp(min=max(_LEAST * float(columns.max()), torch.finfo(torch.float32).tiny))
    ratio = reach**strength / columns ** (1 - strength)
    zero = reach == 0
    if bool(zero.all()):
        return torch.ones_like(low)
    return torch.where(zero, ratio[~zero].log().mean().exp(), ratio).to(low.dtype)


@BALANCES.register("aocq")
def aocq(low: Tensor, high: Tensor, columns: Tensor, strength: float) -> Tensor:
    """AOCQ's operator level, our reading: r_c = (range_c / mean range)^β. Constant channels have no range: 1."""
    extent = (high - low).double()
    constant = extent == 0
    if bool(constant.all()):
        return torch.ones_like(low)
    ratio = (extent / extent[~constant].mean()) ** strength
    return torch.where(constant, torch.ones_like(ratio), ratio).to(low.dtype)


def power_of_two(ratio: Tensor) -> Tensor:
    """The power of two that is nearest on a logarithmic scale, exactly."""
    return torch.ldexp(torch.ones_like(ratio), torch.log2(ratio).round().to(torch.int32))


def pooled(channels: Distribution, ratio: Tensor, shift: Tensor, bins: int = 8192) -> Distribution:
    """Distribution of the whole tensor (x + shift) / ratio from those of its channels, rebinned; extrema are exact.

    channels: C groups with counts. ratio, shift: (C,).
    """
    if channels.counts is None:
        raise ValueError("pooled: a streamed distribution with counts is needed")
    low = ((channels.low + shift) / ratio).min()
    high = ((channels.high + shift) / ratio).max()
    used = channels.counts > 0
    values = ((channels.values + shift.unsqueeze(1)) / ratio.unsqueeze(1))[used]
    width = (high - low).clamp(min=torch.finfo(torch.float32).tiny) / bins
    index = ((values - low) / width).long().clamp_(0, bins - 1)
    counts = torch.bincount(index, weights=channels.counts[used], minlength=bins)
    kept = counts.nonzero().squeeze(1)
    centres = (low + (kept.float() + 0.5) * width).clamp(low, high)
    return Distribution(centres.unsqueeze(0), counts[kept].unsqueeze(0), low.view(1), high.view(1))
