"""How a segment's learning rates and the rounding regularizer's β change over its iterations."""

from __future__ import annotations

import math
from typing import Protocol

import torch


class Schedule(Protocol):
    """What a step says of its learning rates. warmup: share of the iterations; schedule: `cosine` or `constant`."""

    @property
    def warmup(self) -> float: ...

    @property
    def schedule(self) -> str: ...


def schedule_of(step: Schedule, optimizer: torch.optim.Optimizer, iterations: int) -> torch.optim.lr_scheduler.LambdaLR:
    """The rates of all parameter groups; those marked `constant` keep theirs."""
    factors = [
        (lambda _: 1.0) if group["constant"] else (lambda i: rate(step, i, iterations))
        for group in optimizer.param_groups
    ]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factors)


def rate(step: Schedule, iteration: int, iterations: int) -> float:
    """Factor of the learning rate: linear warmup, then constant or cosine to zero."""
    begin = step.warmup * iterations
    if iteration < begin:
        return (iteration + 1) / (begin + 1)
    if step.schedule == "constant":
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
