"""Range search: candidates by min-max, percentile or MSE, chosen per group by squared error.

Vectorized over groups and candidates, on a `Distribution` that stands for the whole calibration set.
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
# Elements of one temporary of a search, by the kind of device: a CPU's second cache holds as many, a GPU is kept busy.
_ELEMENTS = {"cpu": 1 << 16}
_ELEMENTS_ELSEWHERE = 1 << 21


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
) -> tuple[Tensor, Tensor]:
    """The K ranges that a search tries: low and high, (K, G) each. For `minmax` and `mse` the first is the full range.

    `mse` shrinks it towards zero. With to="near", for quantizers whose range need not hold zero, a range on one side of
    zero is shrunk towards its end that is nearer to zero instead: shrunk towards zero it would leave the values.
    """
    low, high = distribution.low, distribution.high
    if range_search == "minmax":
        return low.unsqueeze(0), high.unsqueeze(0)
    if range_search == "percentile":
        lows, highs = zip(*(_percentile(distribution, p) for p in percentiles), strict=True)
        return torch.stack(lows), torch.stack(highs)
    if range_search == "mse":
        fixed = torch.zeros_like(low) if to == "zero" else torch.zeros_like(low).clamp(low, high)
        shares = torch.tensor([1 - i / steps for i in range(steps)], device=low.device).unsqueeze(1)
        return fixed + (low - fixed) * shares, fixed + (high - fixed) * shares
    raise ValueError(f"unknown range search {range_search!r}; valid: minmax, percentile, mse")


def _percentile(distribution: Distribution, p: float) -> tuple[Tensor, Tensor]:
    """The range between the (1 − p)- and the p-quantile; the full one where these are equal.

    They are in a group whose values are nearly all the same, or closer together than a bin of the histogram. A range
    without extent has no step, and would clip the other values onto one.
    """
    low, high = distribution.quantile(1.0 - p), distribution.quantile(p)
    empty = low >= high
    return torch.where(empty, distribution.low, low), torch.where(empty, distribution.high, high)


def errors(distribution: Distribution, tried: Sequence[Tensor], roundtrip: Callable[..., Tensor]) -> Tensor:
    """(K, G) float64 squared error of K candidates; infinite where it is not a number.

    tried: their parameters, (K, G) each. roundtrip: columns (k, G, 1) of k candidates → (k, G, N) values reconstructed
    by them; it gets as many candidates at once as one temporary holds.
    """
    values = distribution.values
    size = max(1, _ELEMENTS.get(values.device.type, _ELEMENTS_ELSEWHERE) // values.numel())
    parts = zip(*(parameter.unsqueeze(2).split(size) for parameter in tried), strict=True)
    return torch.cat([distribution.error(roundtrip(*columns)) for columns in parts]).nan_to_num_(torch.inf, torch.inf)


def best(distribution: Distribution, tried: Sequence[Tensor], roundtrip: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    """Parameters, (G,) each, of least squared error, chosen separately for each group. Ties keep the earlier candidate.

    tried, roundtrip: see `errors`.
    """
    if len(tried[0]) == 1:
        return tuple(parameter[0] for parameter in tried)
    least = errors(distribution, tried, roundtrip).argmin(dim=0, keepdim=True)
    return tuple(parameter.gather(0, least)[0] for parameter in tried)
