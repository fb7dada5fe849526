"""Two-region ("twin") uniform quantizers: PTQ4ViT's, and MPTQ-ViT's OPT-m, which finds the ratio of the regions."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from vitq.errors import Problem
from vitq.quant.affine import LEAST_SCALE
from vitq.quant.distribution import Distribution
from vitq.quant.integer import IntegerPart
from vitq.quant.layout import Layout
from vitq.quant.quantizer import NON_NEGATIVE, ElementwiseQuantizer, check_non_negative, register_quantizer
from vitq.quant.search import CANDIDATES, PERCENTILES, best, candidates

# PTQ4ViT's published range of the ratio saturates here.
MOST = 15


class TwinQuantizer(ElementwiseQuantizer):
    """One of the b bits says which of two regions a value is in; each has 2^(b−1) codes of its own step, Δ₂ = 2^m·Δ₁.

    scale: (G,) Δ₁, the fine step. exponent: (G,) m, integer-valued. There is no zero point, zero is code 0: what
    `symmetric` asks for always holds and changes nothing.

    Options: m: a whole number, or `search` (OPT-m): the pair (m, Δ₂) of least squared error over the distribution, m in
    0 … max_m, jointly with every range that `range` proposes (`minmax` one, `mse` a linear grid of `candidates` steps,
    `percentile` the listed ones), for each group. Ties keep the smaller m, then the wider range.
    """

    options: ClassVar[dict[str, Any]] = {
        "m": "search",
        "max_m": MOST,
        "percentiles": PERCENTILES,
        "candidates": CANDIDATES,
    }
    parameter_names = ("scale", "exponent")
    scale: Tensor
    exponent: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for name in ("m", "max_m"):
            value = self.settings[name]
            if name == "m" and value == "search":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
                text = f"{name}={value!r}; valid: 0 to {MOST}{', or search' if name == 'm' else ''}"
                valid = [*range(MOST + 1), *(["search"] if name == "m" else [])]
                raise ValueError(Problem(text, f"options.{name}", value, valid))

    @property
    def part(self) -> int:
        """Codes of one region, 2^(b−1)."""
        return self.codes // 2

    @property
    def exponents(self) -> list[int]:
        """Values of m that are tried."""
        m = self.settings["m"]
        return list(range(self.settings["max_m"] + 1)) if m == "search" else [int(m)]

    def fit(self, distribution: Distribution, layout: Layout) -> None:
        if self.kinds:
            check_non_negative(self, distribution, instead="twin_uniform")
        percentiles, steps = self.settings["percentiles"], self.settings["candidates"]
        coarse = self._coarse(*candidates(distribution, self.range_search, percentiles, steps))  # (K, G)
        # Every range with every ratio, the ratios outermost: (M·K, G).
        tried = self.exponents
        exponent = torch.tensor(tried, dtype=torch.float32, device=coarse.device)
        exponent = exponent.repeat_interleave(len(coarse)).unsqueeze(1).expand(-1, coarse.shape[1])
        fine = (coarse.repeat(len(tried), 1) * torch.exp2(-exponent)).clamp_(min=LEAST_SCALE)

        def roundtrip(fine: Tensor, exponent: Tensor) -> Tensor:
            return self._round_trip(distribution.values, fine, exponent).double()

        scale, exponent = best(distribution, (fine, exponent), roundtrip)
        # A group of one value c: a step as long as c itself, so that its first code is c exactly.
        value = distribution.low.abs()
        exact = torch.where(value == 0, torch.ones_like(value), value).clamp(min=LEAST_SCALE)
        exact = torch.where(self._coarse_value(distribution.low), exact * torch.exp2(-exponent), exact)
        self.set_parameters(layout, scale=torch.where(distribution.constant, exact, scale), exponent=exponent)

    @abstractmethod
    def _coarse(self, low: Tensor, high: Tensor) -> Tensor:
        """Δ₂ that covers a range, in the shape of its ends."""

    @abstractmethod
    def _coarse_value(self, values: Tensor) -> Tensor:
        """Whether a single value is to be the first code of the coarse region."""

    def integer_parts(self) -> list[IntegerPart]:
        self._check_one_scale()
        fine, exponent = float(self.scale[0]), float(self.exponent[0])
        return self._regions(fine, 2.0**exponent)

    @abstractmethod
    def _regions(self, fine: float, ratio: float) -> list[IntegerPart]:
        """The fine and the coarse region, for one fine step and the ratio 2^m of the steps."""


@register_quantizer("twin_uniform")
class TwinUniformQuantizer(TwinQuantizer):
    """For post-GELU values: the region is the sign. Negative values, short, take the fine step, the others the coarse.

        x < 0: x̂ = −p·Δ₁, p = min(round(−x/Δ₁), 2^(b−1));  x ≥ 0: x̂ = p·2^m·Δ₁, p = min(round(x/(2^m·Δ₁)), 2^(b−1) − 1)

    Codes: p for x ≥ 0, 2^(b−1) + p − 1 for x < 0; what rounds to zero from below is code 0, so that no code is spent on
    a second zero (PTQ4ViT's levels are the same).
    """

    def _coarse(self, low: Tensor, high: Tensor) -> Tensor:
        return torch.maximum(high / (self.part - 1), -low / self.part).clamp(min=LEAST_SCALE)

    def _coarse_value(self, values: Tensor) -> Tensor:
        return values > 0

    def _round_trip(self, x: Tensor, *parameters: Tensor) -> Tensor:
        fine, exponent = parameters
        step = torch.where(x < 0, fine, fine * torch.exp2(exponent))
        return (x / step).round_().clamp_(-self.part, self.part - 1).mul_(step)

    def _regions(self, fine: float, ratio: float) -> list[IntegerPart]:
        # What is negative rounds to 0 in the coarse region, and what is positive in the fine one.
        return [IntegerPart(fine * ratio, 0, self.part - 1), IntegerPart(fine, -self.part, 0)]

    def _codes(self, x: Tensor, *parameters: Tensor) -> Tensor:
        fine, exponent = parameters
        step = torch.where(x < 0, fine, fine * torch.exp2(exponent))
        signed = (x / step).round_().clamp_(-self.part, self.part - 1)
        return torch.where(signed < 0, self.part - 1 - signed, signed)

    def _values(self, codes: Tensor, *parameters: Tensor) -> Tensor:
        fine, exponent = parameters
        negative = codes >= self.part
        signed = torch.where(negative, self.part - 1 - codes, codes)
        return signed * torch.where(negative, fine, fine * torch.exp2(exponent))


@register_quantizer("twin_softmax")
class TwinSoftmaxQuantizer(TwinQuantizer):
    """For post-softmax values, non-negative: small ones take the fine step, large ones the coarse.

    Both regions have codes p = 0 … 2^(b−1) − 1 from zero on. A value takes the region whose nearest code is nearer: the
    fine one below one threshold, halfway between its last value and the coarse region's next. PTQ4ViT's threshold
    2^(b−1)·Δ₁ lies up to half a step beyond, or far short of it where 2^m > 2^(b−1).
    """

    kinds = NON_NEGATIVE

    def _coarse(self, low: Tensor, high: Tensor) -> Tensor:
        return (high / (self.part - 1)).clamp(min=LEAST_SCALE)

    def _coarse_value(self, values: Tensor) -> Tensor:
        return torch.zeros_like(values, dtype=torch.bool)

    def _payload(self, x: Tensor, fine: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
        """(p, whether the region is the coarse one)."""
        ratio = torch.exp2(exponent)
        last = self.part - 1
        following = (torch.floor(last / ratio) + 1).clamp(max=last) * ratio
        coarse = x > fine * ((last + following) / 2)
        return (x / torch.where(coarse, fine * ratio, fine)).round_().clamp_(0, last), coarse

    def _round_trip(self, x: Tensor, *parameters: Tensor) -> Tensor:
        fine, exponent = parameters
        payload, coarse = self._payload(x, fine, exponent)
        return payload.mul_(torch.where(coarse, fine * torch.exp2(exponent), fine))

    def _regions(self, fine: float, ratio: float) -> list[IntegerPart]:
        last = self.part - 1
        following = min(last // ratio + 1, last) * ratio
        if following == last + 1:
            # The coarse steps go on where the fine ones end: x̂ is what lies below that value and what lies beyond it.
            steps = int(last - following / ratio)
            return [IntegerPart(fine, 0, last + 1), IntegerPart(fine * ratio, 0, steps, start=fine * following)]
        threshold = float(torch.tensor(fine) * ((last + following) / 2))
        return [
            IntegerPart(fine, 0, last, up_to=threshold),
            IntegerPart(fine * ratio, 0, last, above=threshold),
        ]

    def _codes(self, x: Tensor, *parameters: Tensor) -> Tensor:
        payload, coarse = self._payload(x, *parameters)
        return payload + coarse * self.part

    def _values(self, codes: Tensor, *parameters: Tensor) -> Tensor:
        fine, exponent = parameters
        coarse = codes >= self.part
        payload = torch.where(coarse, codes - self.part, codes)
        return payload * torch.where(coarse, fine * torch.exp2(exponent), fine)
