"""Reconstruction losses: how far a segment's quantized output is from its full-precision one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vitq.errors import Problem
from vitq.registry import Registry
from vitq.steps.reconstruction.fisher import diagonal, rank_one

# (output, target, weight), all (B, …, C) float32 → scalar, a mean over images. The weight is the task's gradient for
# the losses of FISHER, and what `weights_of` says for the others.
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
LOSSES: Registry[Loss] = Registry("loss", "vitq.steps.reconstruction", "vitq.methods")
# Losses that weigh with the task's gradient at the segment's output (fisher.py).
FISHER = ("fisher_diag", "hessian")
_FISHER_NEEDS = Problem(f"losses {', '.join(FISHER)} need the task's gradient at the segment's output", "gradient")


@LOSSES.register("mse")
def mse(output: Tensor, target: Tensor, gradient: Tensor | None = None) -> Tensor:
    """Squared error summed over tokens (rows and columns for Swin; classes at the head) and averaged over the others.

    I&S-ViT's and BRECQ's reduction. Adam hardly minds the constant, but weight decay and the rounding loss do.
    """
    return _reduced((output - target).square())


def _reduced(square: Tensor) -> Tensor:
    """(B, …, C) → sum over the tokens between, mean over images and channels; (B, classes) → sum over classes."""
    return (square.flatten(1, -2) if square.ndim > 2 else square).sum(dim=1).mean()


def imbalance(seen: Tensor) -> Tensor:
    """Weight of each element of a batch, as large as `seen`: w = (E_token/Ē)·(E_channel/Ē), normalized to mean 1.

    E are the mean energies of the element's token, in its own image, and of its channel, over the batch. AOCQ, loss
    level; our reading: the paper's body could not be had; its abstract transfers "the imbalanced activations across
    tokens and channels to the optimization of model weights". 1 everywhere where there are no tokens.
    """
    if seen.ndim < 3:
        return torch.ones_like(seen)
    energy = seen.detach().square()
    token = energy.mean(dim=-1, keepdim=True)
    channel = energy.mean(dim=tuple(range(seen.ndim - 1)), keepdim=True)
    weight = token * channel
    return weight / weight.mean().clamp(min=torch.finfo(weight.dtype).tiny)


@LOSSES.register("token_channel")
def token_channel(output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Squared error weighted by the imbalance across tokens and channels, reduced as `mse` does.

    Raises ValueError without the weight (`weights_of`).
    """
    text = "token_channel needs the weights of the whole batch, see weights_of"
    given = _given(weight, Problem(text, "weight"))
    return _reduced((output - target).square() * given)


@LOSSES.register("fisher_diag")
def fisher_diag(output: Tensor, target: Tensor, gradient: Tensor | None = None) -> Tensor:
    """Σ g²·(output − target)², mean over images and channels as `mse` reduces (BRECQ, arXiv 2102.05426, eq. 10).

    Raises ValueError without a gradient.
    """
    return diagonal(output - target, _given(gradient, _FISHER_NEEDS)).mean() / _averaged(target)


@LOSSES.register("hessian")
def hessian(output: Tensor, target: Tensor, gradient: Tensor | None = None) -> Tensor:
    """Δzᵀ·(diag(g²) + g·gᵀ)·Δz: the Fisher matrix as diagonal plus rank one, both with weight 1.

    FIMA-Q (arXiv 2506.11543) adds a low-rank part of rank 5 to the diagonal; here the rank is that of one drawn label.
    Raises ValueError without a gradient.
    """
    error, given = output - target, _given(gradient, _FISHER_NEEDS)
    return (diagonal(error, given) + rank_one(error, given)).mean() / _averaged(target)


def _averaged(target: Tensor) -> int:
    """Over how many elements of an image `mse` averages: its channels, none at the head."""
    return target.shape[-1] if target.ndim > 2 else 1


def _given(weight: Tensor | None, needed: Problem) -> Tensor:
    if weight is None:
        raise ValueError(needed)
    return weight


def divergence(wanted: Tensor, given: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over images of KL(softmax(wanted/T) ‖ softmax(given/T)), nats; logits (B, classes)."""
    p, q = (wanted / temperature).log_softmax(-1), (given / temperature).log_softmax(-1)
    return F.kl_div(q, p, reduction="batchmean", log_target=True)


def weights_of(loss: str, inputs: Tensor, target: Tensor, by: str = "targets") -> Tensor | None:
    """What a loss weighs the elements of a batch with, where that depends on all of it: parts of the batch share it.

    by: whose imbalance it is, that of the `targets` or that of the segment's `inputs`. Inputs of another shape (patch
    embedding, patch merging, head) say nothing about an output's tokens and channels; the targets do there.
    """
    if loss != "token_channel":
        return None
    return imbalance(inputs if by == "inputs" and inputs.shape == target.shape else target)
