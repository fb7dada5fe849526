"""Products of the loss's Hessian with vectors, and what is estimated from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitq.models.structure import Segment


class LossHessian:
    """Hessian of the mean cross-entropy with respect to some parameters, all others fixed.

    segments: the chain from the first one that holds such a parameter to the end. batches: what enters it, and labels.
    With one batch the graph of the gradient is kept, and a product costs no forward pass.
    Use as a context manager: gradients are asked of these parameters alone, and of none afterwards.
    """

    def __init__(
        self, segments: Sequence[Segment], parameters: Sequence[nn.Parameter], batches: Sequence[tuple[Tensor, Tensor]]
    ):
        self._segments, self.parameters, self._batches = segments, list(parameters), batches
        self._images = sum(len(labels) for _, labels in batches)
        self._kept: tuple[Tensor, ...] | None = None
        self._wanted: list[bool] = []

    def __enter__(self) -> LossHessian:
        self._wanted = [parameter.requires_grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        return self

    def __exit__(self, *_: object) -> None:
        self._kept = None
        for parameter, wanted in zip(self.parameters, self._wanted, strict=True):
            parameter.requires_grad_(wanted)

    @property
    def size(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters)

    def product(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """H·v, both as one tensor for each parameter."""
        total = [torch.zeros_like(parameter) for parameter in self.parameters]
        for batch, labels in self._batches:
            gradients = self._gradients(batch, labels)
            products = torch.autograd.grad(
                gradients, self.parameters, list(vector), retain_graph=self._kept is not None, materialize_grads=True
            )
            for sum_, product in zip(total, products, strict=True):
                sum_ += product.detach()
        return total

    def flat_product(self, vector: np.ndarray) -> np.ndarray:
        """The same for one flat vector."""
        flat = torch.from_numpy(np.ascontiguousarray(vector)).to(self.parameters[0])
        parts = flat.split([parameter.numel() for parameter in self.parameters])
        shaped = [part.view_as(parameter) for part, parameter in zip(parts, self.parameters, strict=True)]
        return torch.cat([p.flatten() for p in self.product(shaped)]).cpu().numpy()

    def _gradients(self, batch: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        if self._kept is not None:
            return self._kept
        for segment in self._segments:
            batch = segment.forward(batch)
        loss = F.cross_entropy(batch, labels, reduction="sum") / self._images
        gradients = torch.autograd.grad(loss, self.parameters, create_graph=True, materialize_grads=True)
        if len(self._batches) == 1:
            self._kept = gradients
        return gradients


def rademacher(parameters: Sequence[Tensor], seed: int) -> list[Tensor]:
    """One tensor of independent ±1 for each parameter; drawn on the CPU, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1).to(parameter) for parameter in parameters
    ]


def top_eigenvalues(hessian: LossHessian, count: int, tolerance: float, seed: int) -> tuple[np.ndarray, int]:
    """((count,) eigenvalues of largest magnitude, largest first; number of products).

    ARPACK's implicitly restarted Lanczos, to a relative tolerance; NaN where it did not converge.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    products = 0

    def matvec(vector: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return hessian.flat_product(vector.ravel())

    size = hessian.size
    dtype = np.float64 if hessian.parameters[0].dtype == torch.float64 else np.float32
    operator: Any = LinearOperator((size, size), matvec=matvec, dtype=dtype)
    start: Any = np.random.default_rng(seed).standard_normal(size).astype(dtype)
    vectors = min(size, 2 * count + 4)
    eigenvalues: np.ndarray
    try:
        eigenvalues = eigsh(
            operator, count, which="LM", v0=start, ncv=vectors, tol=tolerance, maxiter=30, return_eigenvectors=False
        )
    except ArpackNoConvergence as error:
        eigenvalues = error.eigenvalues.real
    values = np.full(count, np.nan)
    ordered = eigenvalues[np.argsort(-np.abs(eigenvalues))]
    values[: len(ordered)] = ordered
    return values, products


def mean_and_error(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of (N, B) samples over N, and its standard error √(variance / N); infinite for one sample."""
    count = len(samples)
    if count < 2:
        return samples.mean(axis=0), np.full(samples.shape[1], np.inf)
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(count)


@contextmanager
def no_gradients(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter of the model asks for a gradient."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
