"""AdaLog's logarithmic quantizer with an adaptive base (Wu et al., ECCV 2024, arXiv 2407.12951)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vitq.errors import Problem, unknown
from vitq.quant.affine import LEAST_SCALE
from vitq.quant.distribution import Distribution
from vitq.quant.layout import Layout
from vitq.quant.logarithmic import LogQuantizer
from vitq.quant.quantizer import register_quantizer, straight_through
from vitq.quant.search import candidates, errors

# Bases are 2^(q/r) for q = 1 … 2r: from 37 codes for an octave to two octaves for a code, where r = 37.
_WIDEST = 2
TABLES = ("integer", "exact")
# Coarse grid of the progressive search: bases × scales, the scales within four octaves below the maximum.
_BASES, _SCALES, _OCTAVES = 16, 8, 4.0
# A kept pair is refined to itself and its neighbours in base and in scale.
_NEIGHBOURS = tuple((base, scale) for base in (-1, 0, 1) for scale in (-1, 0, 1))


@register_quantizer("adalog")
class AdaLogQuantizer(LogQuantizer):
    """x ≈ s·B^(−c) − shift, c = clamp(round(−log_B((x + shift)/s)), 0, Q), B = 2^(q/r) with a whole q.

    scale: (G,) float32, value of code 0 before the shift is undone. base: (G,) float32, the whole number q. The base is
    fitted to the tensor: a power q·c/r splits into a whole part, a bit shift, and a remainder of r possible values, a
    table. `shift` opens the domain of GELU's output, which never lies below −0.17, to the logarithm (the paper's bias
    reparameterization): W·(x̂' − shift) + b = W·x̂' + (b − shift·W·1), so that the shift disappears into the next
    layer's bias; `folded_bias` gives it. Here it is undone in `decode`, which is that same function exactly, with the
    quantized weights and whatever changes them later.

    Options: resolution: r. shift. zero_code: the last code is zero (less the shift) instead of a power, as in
    LogQuantizer; public code has that zero beside 2^b codes. tables: `integer` rounds the table of remainders to
    multiples of 1/(2^(b+1) − 2), as public code's inference does; `exact` does not. search_steps, keep: steps of the
    progressive search and pairs kept by each.

    range: `mse` searches base and scale together, progressively: from a coarse grid, the best `keep` pairs are refined
    to their neighbours at half the distance, `search_steps` times; a pair that is the neighbour of two is kept twice.
    `minmax` and `percentile` try every base at the scale that their name gives. The criterion is the squared error over
    the calibration set.
    """

    options: ClassVar[dict[str, Any]] = {
        **{name: value for name, value in LogQuantizer.options.items() if name != "candidates"},  # no linear grid here
        "resolution": 37,
        "shift": 0.0,
        "tables": "integer",
        "search_steps": 6,
        "keep": 14,
    }
    parameter_names: ClassVar[tuple[str, ...]] = ("scale", "base")
    base: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.settings["levels"] != "strict":
            text = f"levels={self.settings['levels']!r}; adalog has 2^b codes, strict, and no others"
            raise ValueError(Problem(text, "options.levels", self.settings["levels"], ["strict"]))
        if self.settings["tables"] not in TABLES:
            raise ValueError(unknown("tables of adalog", self.settings["tables"], TABLES, key="options.tables"))
        for name in ("resolution", "search_steps", "keep"):
            value = self.settings[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                text = f"{name}={value!r}; a whole number of at least 1 is needed"
                raise ValueError(Problem(text, f"options.{name}", value))
        if not isinstance(self.shift, float | int) or self.shift < 0:
            text = f"shift={self.shift!r}; a number of at least 0 is needed, e.g. 0.17 after GELU"
            raise ValueError(Problem(text, "options.shift", self.shift))
        if self.shift:
            self.kinds = ()  # whether the shift is large enough, the data say

    @property
    def shift(self) -> float:
        """What is added before the logarithm."""
        shift: float = self.settings["shift"]
        return shift

    @property
    def resolution(self) -> int:
        """r: the steps that an octave is divided into."""
        resolution: int = self.settings["resolution"]
        return resolution

    def folded_bias(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Bias of the next layer that undoes the shift: b − shift·W·1.

        weight: (out, in) as inference uses it, quantized that is. bias: (out,) or None. Gives (out,), weight's dtype.
        """
        folded = weight.sum(dim=1) * -self.shift
        return folded if bias is None else bias + folded

    def fit(self, distribution: Distribution, layout: Layout) -> None:
        if bool((distribution.low + self.shift < -1e-6).any()):
            least = float(distribution.low.min())
            text = (
                f"adalog needs values of at least {-self.shift:g}, the least seen is {least:.3g}; "
                "set options.shift (0.17 after GELU), or use quantizer uniform for this kind"
            )
            raise ValueError(Problem(text, "quantizer", least))
        shifted = _shifted(distribution, self.shift)
        high = shifted.high.clamp(min=LEAST_SCALE)
        search = _BestPair(self, shifted)
        if self.range_search == "mse":
            self._progressive(search, high)
        else:
            bounds = candidates(shifted, self.range_search, self.settings["percentiles"])[1].clamp(min=LEAST_SCALE)
            bases = torch.arange(1.0, _WIDEST * self.resolution + 1, device=bounds.device).unsqueeze(1)
            for bound in bounds:
                search.offer(bound.expand(len(bases), -1), bases.expand(-1, len(bound)))
        scale, base = search.scale, search.base
        # A constant group is code 0 exactly; an all-zero group gets scale 1 and the widest base: the least value.
        single, empty = shifted.constant, shifted.high <= 0
        scale = torch.where(empty, torch.ones_like(scale), torch.where(single, high, scale))
        base = torch.where(empty, torch.full_like(base, float(_WIDEST * self.resolution)), base)
        self.set_parameters(layout, scale=scale, base=base)

    def _progressive(self, search: _BestPair, high: Tensor) -> None:
        widest = _WIDEST * self.resolution
        step_base, step_scale = widest ** (1 / (_BASES - 1)), _OCTAVES / (_SCALES - 1)
        shares = [2 ** (-step_scale * i) for i in range(_SCALES)] * _BASES
        starts = [float(round(step_base**j)) for j in range(_BASES) for _ in range(_SCALES)]
        # What the fixed bases have: log2, and the nearest to log√2.
        shares += [1.0, 1.0]
        starts += [float(round(self.resolution / k)) for k in (1, 2)]
        scales = high * torch.tensor(shares, device=high.device).unsqueeze(1)
        bases = torch.tensor(starts, device=high.device).unsqueeze(1).expand_as(scales)
        for step in range(self.settings["search_steps"]):
            error = search.offer(scales, bases)
            if step == self.settings["search_steps"] - 1:
                break
            kept = error.topk(min(self.settings["keep"], len(error)), dim=0, largest=False).indices
            step_base, step_scale = step_base**0.5, step_scale / 2
            scales, bases = _refined(scales.gather(0, kept), bases.gather(0, kept), step_base, step_scale, widest)

    def _codes(self, x: Tensor, *parameters: Tensor) -> Tensor:
        """Codes of x + shift, which is what x stands for here."""
        scale, base = parameters
        factor = self.resolution / base
        octaves = x.clamp(min=LEAST_SCALE).log2_() * -factor
        return octaves.add_(scale.log2() * factor).round_().clamp_(0, self.codes - 1)

    def _values(self, codes: Tensor, *parameters: Tensor) -> Tensor:
        """Values of codes, x + shift."""
        scale, base = parameters
        # Whole numbers below 2^15, exact in float32: 255 codes × 74.
        power = codes * base
        whole = (power / self.resolution).floor_()
        remainder = torch.exp2((power - whole * self.resolution) * (-1.0 / self.resolution))
        if self.settings["tables"] == "integer":
            steps = 2.0 * self.codes - 2
            remainder = remainder.mul_(steps).round_().div_(steps)
        values = torch.exp2(whole.neg_()) * remainder * scale
        if self.settings["zero_code"]:
            values = values.masked_fill_(codes == self.codes - 1, 0.0)
        return values

    def encode(self, x: Tensor) -> Tensor:
        return self.layout.collapse(self._encode(x), x.shape).to(torch.int64)

    def decode(self, codes: Tensor) -> Tensor:
        layout = self.layout
        return layout.collapse(self._decode(layout.expand(codes)), codes.shape)

    def forward(self, x: Tensor) -> Tensor:
        layout = self.layout
        quantized = self._decode(self._encode(x.detach())).to(x.dtype)
        return layout.collapse(straight_through(layout.expand(x), quantized), x.shape)

    def runtime_form(self) -> nn.Module | None:
        return None  # that of the other logarithms has a fixed base

    def _encode(self, x: Tensor) -> Tensor:
        """Codes of x, float32, in the layout's expanded shape."""
        layout = self.layout
        expanded = layout.expand(x).float()
        return self._codes(expanded + self.shift if self.shift else expanded, *self.views())

    def _decode(self, codes: Tensor) -> Tensor:
        """Values of codes in the layout's expanded shape, looked up in the (G, 2^b) table of all of them."""
        layout = self.layout
        every = torch.arange(self.codes, device=codes.device, dtype=torch.float32).unsqueeze(0)
        levels = self._values(every, self.scale.unsqueeze(1), self.base.unsqueeze(1)) - self.shift
        index = codes.to(torch.int32)
        if layout.groups > 1:
            first = torch.arange(layout.groups, device=codes.device, dtype=torch.int32) * self.codes
            index = index + layout.view(first)
        return levels.reshape(-1).index_select(0, index.reshape(-1)).view(index.shape)


class _BestPair:
    """Scale and base of least squared error so far, (G,) each, chosen separately for each group."""

    def __init__(self, quantizer: AdaLogQuantizer, distribution: Distribution):
        self._quantizer, self._distribution = quantizer, distribution
        self.scale = torch.ones_like(distribution.high)
        self.base = torch.ones_like(distribution.high)
        self._least = torch.full_like(distribution.high, torch.inf, dtype=torch.float64)

    def offer(self, scales: Tensor, bases: Tensor) -> Tensor:
        """(K, G) float64 squared errors of K pairs, (K, G) each; the best of them stays where none before was as good.

        Ties keep the earlier pair.
        """
        values = self._distribution.values

        def roundtrip(*columns: Tensor) -> Tensor:
            return self._quantizer._round_trip(values, *columns)

        error = errors(self._distribution, (scales, bases), roundtrip)
        least, index = error.min(dim=0, keepdim=True)
        better = least[0] < self._least
        self._least = torch.where(better, least[0], self._least)
        self.scale = torch.where(better, scales.gather(0, index)[0], self.scale)
        self.base = torch.where(better, bases.gather(0, index)[0], self.base)
        return error


def _refined(scales: Tensor, bases: Tensor, step_base: float, step_scale: float, widest: int) -> tuple[Tensor, Tensor]:
    """The neighbours of the kept pairs: a factor apart in the base, some octaves apart in the scale.

    scales, bases: (keep, G). Gives both for every neighbour, (keep·neighbours, G), those of a pair together.
    """
    along_base, along_scale = torch.tensor(_NEIGHBOURS, device=scales.device, dtype=torch.float64).T.unsqueeze(2)
    # At least one apart, where the factor would round to nothing.
    apart = (bases * (step_base - 1)).round().clamp(min=1).unsqueeze(1)
    moved = (bases.unsqueeze(1) + along_base.float() * apart).clamp(1, widest)
    return (scales.unsqueeze(1) * (2 ** (step_scale * along_scale)).float()).flatten(0, 1), moved.flatten(0, 1)


def _shifted(distribution: Distribution, shift: float) -> Distribution:
    """The distribution of x + shift, negative values taken as zero."""
    return Distribution(
        (distribution.values + shift).clamp_(min=0),
        distribution.counts,
        (distribution.low + shift).clamp(min=0),
        (distribution.high + shift).clamp(min=0),
    )
