"""What passes one site of the running network: histogram, error, clipping, codes in use, ranges of channels."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vitq.quant.histogram import Histogram
from vitq.quant.layout import Layout
from vitq.quant.quantizer import Quantizer
from vitq.quant.site import Site

# What a probe that was stopped keeps of a site, beside the sums: its own tensors, and its histogram's.
_TENSORS = ("used", "low", "high")
_COUNTS = ("counts", "exponent", "low", "high")


@dataclass
class SiteStatistics:
    """Running figures of one site.

    used: (G, 2^b + 1) whether a code was used (the last column is that of recipes with one level too many). low, high:
    (C,) extrema of each channel. levels: (G, 2^b) sorted, None where each image has its own.
    """

    site: Site
    histogram: Histogram = field(default_factory=Histogram)
    signal: float = 0.0
    noise: float = 0.0
    clipped: int = 0
    elements: int = 0
    used: Tensor | None = None
    levels: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None

    @property
    def sqnr(self) -> float:
        """10·log10(signal / noise), dB; infinite without noise."""
        return float(10 * np.log10(self.signal / self.noise)) if self.signal > 0 and self.noise > 0 else float("inf")

    @property
    def unused(self) -> float:
        """Share of the 2^b codes of all groups that no element was given."""
        if self.used is None or self.site.quantizer is None:
            return float("nan")
        return 1 - float(self.used[:, : self.site.quantizer.codes].double().mean())

    @property
    def clip(self) -> float:
        """Share of elements that lie farther outside the levels than half a step; NaN where levels are not fixed."""
        return self.clipped / self.elements if self.levels is not None and self.elements else float("nan")

    def shown_levels(self) -> np.ndarray:
        """(2^b,) levels of the group whose span is the median one; empty where they are not fixed."""
        if self.levels is None:
            return np.zeros(0)
        span = self.levels[:, -1] - self.levels[:, 0]
        return self.levels[int(span.argsort()[len(span) // 2])].double().cpu().numpy()

    def counts(self, bins: int) -> tuple[np.ndarray, np.ndarray]:
        """(bins + 1,) edges from the least to the largest value, and (bins,) counts."""
        distribution = self.histogram.distribution()
        low, high = float(distribution.low[0]), float(distribution.high[0])
        high = high if high > low else low + max(abs(low), 1.0) * 1e-6
        weights = None if distribution.counts is None else distribution.counts[0].cpu().numpy()
        counts, edges = np.histogram(distribution.values[0].cpu().numpy(), bins, (low, high), weights=weights)
        return edges, counts


class StatisticsObserver:
    """Observes sites that are on; see `SiteStatistics`. A weight is looked at once."""

    def __init__(self) -> None:
        self.seen: dict[str, SiteStatistics] = {}

    @torch.no_grad()
    def observe(self, site: Site, x: Tensor) -> None:
        quantizer = site.quantizer
        if not site.on or quantizer is None or (site.is_weight and site.name in self.seen):
            return
        seen = self.seen.get(site.name)
        if seen is None:
            seen = self.seen[site.name] = SiteStatistics(site, levels=_levels(quantizer))
        seen.histogram.update(x, Layout.of("tensor", site.axes, tuple(x.shape)))
        wide = x.double()
        seen.signal += float(wide.square().sum())
        seen.noise += float((quantizer(x).double() - wide).square().sum())
        seen.elements += x.numel()
        layout = quantizer.layout
        _use(seen, quantizer, layout.rows(quantizer.encode(x)))
        if seen.levels is not None:
            low, high = _ends(seen.levels)
            rows = layout.rows(x)
            seen.clipped += int(((rows < low) | (rows > high)).sum())
        if site.kind == "post_norm":
            channels = x.flatten(0, -2)
            low, high = channels.amin(dim=0), channels.amax(dim=0)
            seen.low = low if seen.low is None else torch.minimum(seen.low, low)
            seen.high = high if seen.high is None else torch.maximum(seen.high, high)

    def state(self, batches: int) -> np.ndarray:
        """Everything seen in so many batches, as bytes; see `restore`."""
        seen = {
            name: {
                "sums": torch.tensor([one.signal, one.noise, one.clipped, one.elements], dtype=torch.float64),
                "ndim": len(one.histogram.layout.params) if one.histogram.layout else 0,
                **{key: getattr(one, key) for key in _TENSORS},
                "histogram": {key: getattr(one.histogram, key) for key in _COUNTS},
            }
            for name, one in self.seen.items()
        }
        buffer = io.BytesIO()
        torch.save({"batches": batches, "seen": seen}, buffer)
        return np.frombuffer(buffer.getvalue(), dtype=np.uint8)

    def restore(self, sites: Mapping[str, Site], state: np.ndarray, device: torch.device) -> int:
        """Take up a state; returns the number of its batches. The sites are those that it was taken from."""
        stored = torch.load(io.BytesIO(state.tobytes()), map_location=device, weights_only=True)
        for name, kept in stored["seen"].items():
            quantizer = sites[name].quantizer
            if quantizer is None:
                raise RuntimeError(f"site {name} was quantized when the probe began")
            one = self.seen[name] = SiteStatistics(sites[name], levels=_levels(quantizer))
            one.signal, one.noise, clipped, elements = kept["sums"].tolist()
            one.clipped, one.elements = int(clipped), int(elements)
            one.histogram.layout = Layout.of("tensor", sites[name].axes, (1,) * kept["ndim"])
            for key in _TENSORS:
                setattr(one, key, kept[key])
            for key in _COUNTS:
                setattr(one.histogram, key, kept["histogram"][key])
        return int(stored["batches"])


def _levels(quantizer: Quantizer) -> Tensor | None:
    if not quantizer.packable:
        return None
    return quantizer.levels().sort(dim=1).values


def _ends(levels: Tensor) -> tuple[Tensor, Tensor]:
    """(G, 1) each: half a step beyond the outermost levels, where rounding to them ends and clipping begins."""
    low = levels[:, :1] - (levels[:, 1:2] - levels[:, :1]) / 2
    return low, levels[:, -1:] + (levels[:, -1:] - levels[:, -2:-1]) / 2


def _use(seen: SiteStatistics, quantizer: Quantizer, codes: Tensor) -> None:
    width = quantizer.codes + 1
    offset = torch.arange(len(codes), device=codes.device).unsqueeze(1) * width
    used = torch.bincount((codes + offset).flatten(), minlength=len(codes) * width).view(len(codes), width) > 0
    seen.used = used if seen.used is None else seen.used | used
