"""How a segment's learning rates and the rounding regularizer's β change over its iterations."""

from __future__ import annotations

import math

import torch


def schedule_of(
    optimizer: torch.optim.Optimizer, iterations: int, warmup: float, along: str
) -> torch.optim.lr_scheduler.LambdaLR:
    """The rates of all parameter groups; those marked `constant` keep theirs. See `rate`."""
    factors = [
        (lambda _: 1.0) if group["constant"] else (lambda i: rate(i, iterations, warmup, along))
        for group in optimizer.param_groups
    ]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factors)


def rate(iteration: int, iterations: int, warmup: float, along: str) -> float:
    """Factor of the learning rate: linear warmup over a share of the iterations, then `constant` or `cosine` to 0."""
    begin = warmup * iterations
    if iteration < begin:
        return (iteration + 1) / (begin + 1)
    if along == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (iteration - begin) / max(1.0, iterations - begin)))


def anneal(
    progress: float, along: str = "cosine", start: float = 20.0, end: float = 2.0, warmup: float = 0.2
) -> float | None:
    """β of the rounding regularizer: none during the warmup, then from 20 to 2 along a `cosine` or a line."""
    if progress < warmup:
        return None
    done = (progress - warmup) / (1 - warmup)
    left = 0.5 * (1 + math.cos(math.pi * done)) if along == "cosine" else 1 - done
    return end + (start - end) * left
