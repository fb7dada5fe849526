"""What a range search sees of a tensor: values with counts, exact extrema, quantiles.

A weight is seen exactly (`from_rows`), an activation through a streaming histogram (`Histogram.distribution`); every
search is written once, against this class, vectorized over groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vitq.errors import Problem


@dataclass
class Distribution:
    """G groups of weighted values.

    values: (G, N) float32; counts: (G, N) float64 weights, or None where every value counts once.
    low, high: (G,) exact minimum and maximum.
    """

    values: Tensor
    counts: Tensor | None
    low: Tensor
    high: Tensor

    @staticmethod
    def from_rows(rows: Tensor) -> Distribution:
        """Exact distribution of a (G, N) matrix."""
        if rows.numel() == 0:
            text = f"cannot fit a quantizer to an empty tensor of shape {tuple(rows.shape)}"
            raise ValueError(Problem(text, "rows", tuple(rows.shape)))
        values = rows.detach().float()
        low, high = values.aminmax(dim=1)
        return Distribution(values, None, low, high)

    @property
    def constant(self) -> Tensor:
        """(G,) bool: groups that hold one value only."""
        return self.low == self.high

    def quantile(self, p: float) -> Tensor:
        """(G,) p-quantile, 0 ≤ p ≤ 1, linearly interpolated between order statistics as in torch.quantile."""
        if not 0.0 <= p <= 1.0:
            raise ValueError(Problem(f"quantile {p} is outside [0, 1]", "quantile", p))
        if self.counts is None:
            return _sorted_quantile(self._sorted, p)
        cumulative = self.counts.cumsum(dim=1)
        total = cumulative[:, -1:]
        # Order statistics are counted from 1; the rank sought lies between `lower` and the next.
        rank = (total - 1) * p + 1
        lower = (rank + 1e-9 * total).floor()
        return torch.lerp(
            self._order_statistic(cumulative, lower),
            self._order_statistic(cumulative, (lower + 1).minimum(total)),
            (rank - lower).clamp_(min=0).squeeze(1).to(self.values.dtype),
        )

    def _order_statistic(self, cumulative: Tensor, k: Tensor) -> Tensor:
        """(G,) the k-th smallest value, k: (G, 1) from 1: the bin that holds it, and the exact extrema at both ends."""
        index = torch.searchsorted(cumulative, k - 1e-9 * cumulative[:, -1:]).clamp_(max=self.values.shape[1] - 1)
        value = self.values.gather(1, index).squeeze(1).clamp(self.low, self.high)
        k, total = k.squeeze(1), cumulative[:, -1]
        return torch.where(k <= 1, self.low, torch.where(k >= total, self.high, value))

    @cached_property
    def _sorted(self) -> Tensor:
        return self.values.sort(dim=1).values

    def error(self, reconstructed: Tensor) -> Tensor:
        """(…, G) float64 sum of squared differences between the values and `reconstructed` (…, G, N)."""
        square = (reconstructed - self.values).square_().double()
        if self.counts is not None:
            square *= self.counts
        return square.sum(dim=-1)


def _sorted_quantile(values: Tensor, p: float) -> Tensor:
    position = p * (values.shape[1] - 1)
    lower = int(position)
    upper = min(lower + 1, values.shape[1] - 1)
    return torch.lerp(values[:, lower], values[:, upper], position - lower)
