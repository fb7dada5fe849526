"""Random orthogonal matrices that spread a vector over all channels: Hadamard matrices, and rotations that keep a mean.

All in float64, on the CPU, drawn from a generator.
"""

from __future__ import annotations

from typing import Literal

import scipy.linalg
import torch
from torch import Tensor

from vitq.errors import Problem

Matrix = Literal["hadamard", "random"]

# Below this a vector and its image are the same vector: its next length is of the order of 1/size.
_EQUAL = 1e-8


def mean_preserving(size: int, generator: torch.Generator, matrix: Matrix = "hadamard") -> Tensor:
    """(size, size) orthogonal R with R·1 = 1: a rotated row vector xR has the mean and the variance of x.

    So LayerNorm without its affine part commutes with R exactly. R = (I − 2wwᵀ/wᵀw)·Q for a random orthogonal Q, with
    w = Qu − u and u = 1/√size: Householder's reflection takes Qu back to u. Our own construction; published rotations
    of transformers (QuaRot, SpinQuant, GLF-Q) turn LayerNorm into RMSNorm first. Raises ValueError as `orthogonal`.
    """
    q = orthogonal(size, generator, matrix)
    u = torch.full((size,), size**-0.5, dtype=torch.float64)
    w = q @ u - u
    length = w @ w
    return q if float(length) < _EQUAL**2 else q - torch.outer(w, w @ q) * (2 / length)


def orthogonal(size: int, generator: torch.Generator, matrix: Matrix = "hadamard") -> Tensor:
    """(size, size) random orthogonal matrix.

    hadamard: a Hadamard matrix / √size with random signs of its rows and columns, so that all entries are ±1/√size.
    random: uniformly distributed (QR of a Gaussian matrix), for any size. Raises ValueError where no Hadamard matrix of
    that size is known here.
    """
    if matrix == "random":
        gaussian = torch.randn(size, size, generator=generator, dtype=torch.float64)
        factors = torch.linalg.qr(gaussian)
        turned: Tensor = factors.Q * factors.R.diagonal().sign()
        return turned
    signed = hadamard(size)
    if signed is None:
        text = f"no Hadamard matrix of size {size} is known here; set matrix=random"
        raise ValueError(Problem(text, "matrix", matrix, ["random"]))
    signs = torch.randint(2, (2, size), generator=generator).double().mul_(2).sub_(1)
    mixed: Tensor = signs[0].unsqueeze(1) * signed * signs[1] * size**-0.5
    return mixed


def hadamard(size: int) -> Tensor | None:
    """(size, size) of ±1 with H·Hᵀ = size·I, or None.

    Sylvester's doubling of the least core: 1, or one of Paley's constructions from a prime q (q + 1 or 2q + 2).
    """
    for doublings in range(size.bit_length() - 1, -1, -1):
        core = size >> doublings
        if core << doublings != size:
            continue
        least = torch.ones(1, 1, dtype=torch.float64) if core == 1 else _paley(core)
        if least is not None:
            return torch.kron(torch.from_numpy(scipy.linalg.hadamard(1 << doublings)).double(), least)
    return None


def _paley(size: int) -> Tensor | None:
    """Paley's first construction where size − 1 is a prime 3 mod 4, his second where size/2 − 1 is one 1 mod 4."""
    identity = torch.eye(size, dtype=torch.float64)
    if _prime(size - 1) and size % 4 == 0:
        return identity + _conference(size - 1, -1.0)
    half = size // 2
    if size % 4 == 0 and _prime(half - 1) and half % 4 == 2:
        plus = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        minus = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(_conference(half - 1, 1.0), plus) + torch.kron(identity[:half, :half], minus)
    return None


def _conference(q: int, sign: float) -> Tensor:
    """(q + 1, q + 1) conference matrix of the quadratic residues modulo a prime q; sign: of its first column."""
    residues = {x * x % q for x in range(1, q)}
    character = torch.tensor([0.0] + [1.0 if x in residues else -1.0 for x in range(1, q)], dtype=torch.float64)
    index = torch.arange(q)
    matrix = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    matrix[0, 1:], matrix[1:, 0] = 1.0, sign
    matrix[1:, 1:] = character[(index.unsqueeze(1) - index) % q]
    return matrix


def _prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
