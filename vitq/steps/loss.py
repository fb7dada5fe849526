"""Reconstruction losses: how far a segment's quantized output is from its full-precision one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitq.registry import Registry

# (output, target), both (B, …, C) float32 → scalar.
Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: Registry[Loss] = Registry("loss")


@LOSSES.register("mse")
def mse(output: Tensor, target: Tensor) -> Tensor:
    """Squared error summed over dimension 1 (tokens, or classes at the head) and averaged over the rest.

    I&S-ViT's and BRECQ's reduction. Adam hardly minds the constant, but weight decay and the rounding loss do.
    """
    return (output - target).square().sum(dim=1).mean()


@LOSSES.register("token_channel")
def token_channel(output: Tensor, target: Tensor) -> Tensor:
    """Squared error weighted by the imbalance of the target across tokens and channels (AOCQ, loss level; our reading).

    The paper's body could not be had; its abstract transfers "the imbalanced activations across tokens and channels to
    the optimization of model weights". Here each element weighs by its token's and its channel's mean energy relative
    to the mean, w = (E_token/Ē)·(E_channel/Ē), normalized to mean 1 over the batch.
    """
    if target.ndim < 3:
        return mse(output, target)
    energy = target.detach().square()
    token = energy.mean(dim=-1, keepdim=True)
    channel = energy.mean(dim=tuple(range(target.ndim - 1)), keepdim=True)
    weight = token * channel
    weight = weight / weight.mean().clamp(min=torch.finfo(weight.dtype).tiny)
    return ((output - target).square() * weight).sum(dim=1).mean()
