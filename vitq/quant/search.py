"""Range search: candidates by min-max, percentile or MSE, chosen per group by squared error.

Vectorized over groups and streamed over candidates, on a `Distribution` that stands for the whole calibration set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitq.errors import Problem
from vitq.quant.distribution import Distribution

# RepQ-ViT's and I&S-ViT's activation percentiles.
PERCENTILES = (0.999, 0.9999, 0.99999)
# Number of shrink factors tried by the MSE search.
CANDIDATES = 100
# What the MSE search shrinks a range to: zero, or the end nearer to zero of a range that lies on one side of it.
SHRINK = ("zero", "near")


def check(settings: Mapping[str, Any]) -> None:
    """Raise ValueError where a quantizer's options `percentiles`, `candidates` and `shrink_to` are not valid."""
    percentiles, steps = settings.get("percentiles", PERCENTILES), settings.get("candidates", CANDIDATES)
    if not isinstance(percentiles, list | tuple) or not percentiles:
        text = f"percentiles={percentiles!r}; a list of numbers is needed, e.g. [0.999, 0.9999]"
        raise ValueError(Problem(text, "options.percentiles", percentiles))
    for p in percentiles:
        if not isinstance(p, float | int) or not 0.5 < p <= 1.0:
            text = f"percentile {p!r} is outside (0.5, 1]; e.g. 0.9999"
            raise ValueError(Problem(text, "options.percentiles", p))
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        text = f"candidates={steps!r}; a whole number of at least 1 is needed"
        raise ValueError(Problem(text, "options.candidates", steps))
    if (to := settings.get("shrink_to", SHRINK[0])) not in SHRINK:
        raise ValueError(Problem(f"shrink_to={to!r}; valid: {', '.join(SHRINK)}", "options.shrink_to", to, SHRINK))


def candidates(
    distribution: Distribution,
    range_search: str,
    percentiles: Sequence[float],
    steps: int = CANDIDATES,
    to: str = SHRINK[0],
) -> list[tuple[Tensor, Tensor]]:
    """Ranges (low, high), each (G,), that a search tries. The full range always is the first for `minmax` and `mse`.

    `mse` shrinks it towards zero. With to="near", for quantizers whose range need not hold zero, a range on one side of
    zero is shrunk towards its end that is nearer to zero instead: shrunk towards zero it would leave the values.
    """
    low, high = distribution.low, distribution.high
    if range_search == "minmax":
        return [(low, high)]
    if range_search == "percentile":
        return [_percentile(distribution, p) for p in percentiles]
    if range_search == "mse":
        fixed = torch.zeros_like(low) if to == "zero" else torch.zeros_like(low).clamp(low, high)
        shares = [1 - i / steps for i in range(steps)]
        return [(fixed + (low - fixed) * share, fixed + (high - fixed) * share) for share in shares]
    raise ValueError(f"unknown range search {range_search!r}; valid: minmax, percentile, mse")


def _percentile(distribution: Distribution, p: float) -> tuple[Tensor, Tensor]:
    """The range between the (1 − p)- and the p-quantile; the full one where these are equal.

    They are in a group whose values are nearly all the same, or closer together than a bin of the histogram. A range
    without extent has no step, and would clip the other values onto one.
    """
    low, high = distribution.quantile(1.0 - p), distribution.quantile(p)
    empty = low >= high
    return torch.where(empty, distribution.low, low), torch.where(empty, distribution.high, high)


def best(
    distribution: Distribution, tried: Sequence[tuple[Tensor, ...]], roundtrip: Callable[..., Tensor]
) -> tuple[Tensor, ...]:
    """The candidate of least squared error, chosen separately for each group. Ties keep the earlier one.

    tried: candidates, (G,) tensors each. roundtrip: columns (G, 1) of a candidate → (G, N) values reconstructed by it.
    """
    if len(tried) == 1:
        return tried[0]
    chosen = tried[0]
    least = torch.full_like(distribution.low, torch.inf, dtype=torch.float64)
    for candidate in tried:
        error = distribution.error(roundtrip(*(parameter.unsqueeze(1) for parameter in candidate)))
        better = error < least
        least = torch.where(better, error, least)
        chosen = tuple(torch.where(better, new, old) for new, old in zip(candidate, chosen, strict=True))
    return chosen
