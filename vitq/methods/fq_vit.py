"""FQ-ViT's power-of-two factors (Lin et al., IJCAI 2022, arXiv 2111.13824, section 3.2) for LayerNorm's input."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from vitq.errors import Problem
from vitq.quant.affine import LEAST_SCALE, round_trip
from vitq.quant.distribution import Distribution
from vitq.quant.layout import Layout
from vitq.quant.quantizer import register_quantizer
from vitq.quant.search import best
from vitq.quant.uniform import UniformQuantizer


@register_quantizer("ptf")
class PowerOfTwoFactor(UniformQuantizer):
    """One scale s and zero point z for the tensor, and for each channel a factor 2^α, α ∈ {0 … K} (eq. 7–10).

        X_q = clamp(round(X / (2^α·s)) + z, 0, 2^b − 1),  s = (max − min) / (2^b − 1) / 2^K,  z = round(−min / (2^K·s))

    α of a channel is the one of least squared error. In integers the factors are shifts, so that LayerNorm's mean and
    variance need no floating point. Granularity `channel`; scale (C,) holds 2^α·s, zero_point (C,) the common z.

    Options: K, the largest α (3 in the paper).
    """

    options: ClassVar[dict[str, Any]] = {"K": 3}

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        most = self.settings["K"]
        if not isinstance(most, int) or isinstance(most, bool) or not 0 <= most <= 8:
            raise ValueError(Problem(f"K={most!r}; valid: 0 to 8", "options.K", most, range(9)))
        if self.granularity != "channel":
            text = f"granularity={self.granularity!r}; a factor for each channel needs granularity channel"
            raise ValueError(Problem(text, "granularity", self.granularity, ["channel"]))
        if self.symmetric:
            text = "symmetric=true: power-of-two factors share an asymmetric zero point; leave symmetric out"
            raise ValueError(Problem(text, "symmetric", True, [False]))
        if self.range_search != "minmax":
            text = f"range={self.range_search}: power-of-two factors divide the whole range, minmax; leave range out"
            raise ValueError(Problem(text, "range", self.range_search, ["minmax"]))

    def fit(self, distribution: Distribution, layout: Layout) -> None:
        low, high = distribution.low.min().clamp(max=0), distribution.high.max().clamp(min=0)
        widest = ((high - low) / (self.codes - 1)).clamp(min=LEAST_SCALE)
        zero = torch.round(-low / widest).expand_as(distribution.low)
        # From the widest on, so that ties keep the range that clips nothing.
        factors = torch.tensor([[2.0**halvings] for halvings in range(self.settings["K"] + 1)], device=zero.device)

        def roundtrip(scale: Tensor) -> Tensor:
            return round_trip(distribution.values, scale, zero.unsqueeze(1), self.codes)

        (scale,) = best(distribution, [(widest / factors).expand(-1, len(zero))], roundtrip)
        self.assign(layout, scale, zero)
        self.constants = torch.full_like(zero, torch.nan)

    def parameter_bytes(self) -> int:
        """One float32 scale, one zero point, an exponent for each channel (a byte)."""
        return 4 + 1 + self.scale.numel()
