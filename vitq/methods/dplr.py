"""FIMA-Q's loss: the Fisher matrix of a segment's outputs as a diagonal plus a low-rank part (CVPR 2025)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitq.config import RunConfig
from vitq.errors import Problem, bad
from vitq.steps.reconstruction import object_curvature as objects
from vitq.steps.reconstruction.curvature import moments
from vitq.steps.reconstruction.objective import Measure, Objective, register_objective
from vitq.steps.reconstruction.segment_task import SegmentTask
from vitq.steps.step import Count, NotNegative, Positive, Workspace

# Directions of D whose second moment is a smaller share of the largest are rounding errors of float32.
_NOISE = 1e-6


@register_objective("dplr")
class Dplr(Objective):
    """λ₁·L₁/L₁⁰ + λ₂·L₂/L₂⁰ with a = |Δz|·Gᵀ: L₁ = a·(D·Dᵀ)⁺·aᵀ and L₂ = mean(ḡ·Δz²).

    Δz: error of the segment's output, M elements of an image. Rows of G and D, (k, M) each: for each of k moments of
    the course, as far as they have come, the means over all calibration images of |∂KL/∂z| and of |Δz|, the segment
    reading full-precision inputs, all that follows in full precision. ḡ: mean row of G. Source: public code (Apache-2,
    facts alone); it takes absolute values everywhere and ḡ, not ḡ/|Δz|, on the diagonal, and so does this.

    rank: k (published figures 15, public configs 5). low_rank, diagonal: λ₁, λ₂. temperature: of both softmaxes in KL.
    Ours: at these moments everything is quantized, soft roundings as they stand (public code drops half of the
    activations then too); k is never exceeded; the inverse is a pseudo-inverse, since rows of D hardly differ where
    little was learned between two moments.

    Of a detector the means of G and D run over positions too: images of other sizes have none in common. Rows then have
    a number for each channel, and a, D·Dᵀ and ḡ are what they are where all positions of a channel have that [I].
    """

    rank: Count = 15
    low_rank: NotNegative = 1.0
    diagonal: NotNegative = 1.0
    temperature: Positive = 20.0

    def check(self, config: RunConfig) -> list[Problem]:
        if self.low_rank or self.diagonal:
            return []
        why = "one of low_rank and diagonal is above 0, else nothing is compared"
        return [bad("loss_options.low_rank", self.low_rank, why)]

    def of(self, work: Workspace, task: SegmentTask) -> Measure:
        return _LowRank(self, work, task)

    def of_objects(self, work: Workspace, task: SegmentTask) -> Measure:
        return _LowRankByChannel(self, work, task)


class _LowRank(Measure):
    """Rows have a number for each of `M` elements."""

    def __init__(self, options: Dplr, work: Workspace, task: SegmentTask):
        super().__init__()
        self._options, self._work, self._task = options, work, task
        self.weights = (options.low_rank, options.diagonal)
        self._gradients: list[Tensor] = []
        self._errors: list[Tensor] = []
        self._rows = self._inverse = torch.zeros(0)

    def due(self, number: int, iterations: int) -> bool:
        every = max(1, iterations // self._options.rank)
        return number % every == 0 and len(self._gradients) < self._options.rank

    def refresh(self) -> None:
        gradient, error, positions = self._means()
        self._gradients.append(gradient)
        self._errors.append(error)
        rows, errors = torch.stack(self._gradients), torch.stack(self._errors)
        # In units of their mean: the terms are relative, and small numbers stay clear of float32's end.
        self._rows = (rows / rows.mean().clamp(min=torch.finfo(rows.dtype).tiny)).float()
        square = errors @ errors.T if positions is None else (errors * positions) @ errors.T
        self._inverse = torch.linalg.pinv(square, rtol=_NOISE, hermitian=True).float()

    def _means(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Means of |∂KL/∂z| and |Δz|, float64 (M,); how many positions share each number, (M,), None for one."""
        total = [torch.zeros((), dtype=torch.float64)] * 2
        for error, gradient in moments(self._work, self._task, self._options.temperature):
            for index, part in enumerate((gradient, error)):
                total[index] = total[index].to(part.device) + part.abs().sum(dim=0, dtype=torch.float64).flatten()
        gradient, error = (part / len(self._task.exact) for part in total)
        return gradient, error, None

    def terms(self, output: Any, target: Any, chosen: Tensor) -> Tensor:
        error = (output - target).abs().flatten(1)
        along = error @ self._rows.T
        low_rank = (along @ self._inverse * along).sum(dim=1).mean()
        return torch.stack([low_rank, (error.square() * self._rows.mean(dim=0)).mean()])


class _LowRankByChannel(_LowRank):
    """Rows have a number for each channel of each tensor that the segment makes."""

    def _means(self) -> tuple[Tensor, Tensor, Tensor | None]:
        sums = []
        for image in objects.moments(self._work, self._task, self._options.temperature):
            rows = [objects.by_channel(part.double(), self._task) for both in image for part in both]
            counts = [torch.full_like(part[0], len(part)) for part in rows[::2]]
            sums.append(
                [torch.cat([part.abs().sum(dim=0) for part in rows[start::2]]) for start in (0, 1)]
                + [torch.cat(counts)]
            )
        error, gradient, positions = (torch.stack(parts).sum(dim=0) for parts in zip(*sums, strict=True))
        return gradient / positions, error / positions, positions / len(sums)

    def terms(self, output: Any, target: Any, chosen: Tensor) -> Tensor:
        errors = [objects.by_channel(value - wanted, self._task) for value, wanted in objects.pairs(output, target)]
        along = torch.cat([error.abs().sum(dim=0) for error in errors]) @ self._rows.T
        squares = torch.cat([error.square().sum(dim=0) for error in errors])
        diagonal = (squares * self._rows.mean(dim=0)).sum() / sum(error.numel() for error in errors)
        return torch.stack([along @ self._inverse @ along, diagonal])
