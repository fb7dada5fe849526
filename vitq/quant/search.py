"""Range search: candidates by min-max, percentile or MSE, chosen per group by squared error.

Vectorized over groups and streamed over candidates, on a `Distribution` that stands for the whole calibration set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vitq.quant.distribution import Distribution

# RepQ-ViT's and I&S-ViT's activation percentiles.
PERCENTILES = (0.999, 0.9999, 0.99999)
# Number of shrink factors tried by the MSE search.
CANDIDATES = 100

# (low, high) → (G, N) reconstruction of the distribution's values under that range.
RoundTrip = Callable[[Tensor, Tensor], Tensor]


def candidates(
    distribution: Distribution, range: str, percentiles: Sequence[float], steps: int
) -> list[tuple[Tensor, Tensor]]:
    """Ranges (low, high), each (G,), that a search tries. The full range always is the first for `minmax` and `mse`."""
    low, high = distribution.low, distribution.high
    if range == "minmax":
        return [(low, high)]
    if range == "percentile":
        for p in percentiles:
            if not 0.5 < p <= 1.0:
                raise ValueError(f"percentile {p} is outside (0.5, 1]; e.g. 0.9999")
        return [(distribution.quantile(1.0 - p), distribution.quantile(p)) for p in percentiles]
    if range == "mse":
        if steps < 1:
            raise ValueError(f"candidates={steps}; at least 1 is needed")
        return [(low * (1 - i / steps), high * (1 - i / steps)) for i in torch.arange(steps).tolist()]
    raise ValueError(f"unknown range search {range!r}; valid: minmax, percentile, mse")


def best(
    distribution: Distribution, tried: Sequence[tuple[Tensor, Tensor]], roundtrip: RoundTrip
) -> tuple[Tensor, Tensor]:
    """The range of least squared error, chosen separately for each group. Ties keep the earlier candidate."""
    if len(tried) == 1:
        return tried[0]
    low, high = (bound.clone() for bound in tried[0])
    least = distribution.error(roundtrip(low, high))
    for candidate_low, candidate_high in tried[1:]:
        error = distribution.error(roundtrip(candidate_low, candidate_high))
        better = error < least
        least = torch.where(better, error, least)
        low = torch.where(better, candidate_low, low)
        high = torch.where(better, candidate_high, high)
    return low, high
