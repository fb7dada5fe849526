"""Distributions: what passes each site of the quantized network, and how its quantizer fits it."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vitq.config import RunConfig
from vitq.errors import Problem, bad
from vitq.probes.budget import PartialResults
from vitq.probes.probe import Probe, register_probe
from vitq.probes.probed_model import Subject
from vitq.probes.site_statistics import SiteStatistics, StatisticsObserver
from vitq.quant.site import watching

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHANNELS = ("low", "high", "level_low", "level_high", "fp_low", "fp_high")


@register_probe("distributions")
class Distributions(Probe):
    """For each quantized site, in the running quantized network on the probe images: a histogram with the quantizer's
    levels, the signal-to-quantization-noise ratio, the share of clipped elements and of codes that nothing was given.

    bins: of the stored histograms. Post-LayerNorm sites have the range of each channel, too, beside that of the
    full-precision network's norm (recipes fold scales and shifts between the two).

    Arrays, S sites in the order of the model: `site`, `kind`, `bits`, `sqnr_db`, `clipped`, `unused` (S,); `edges`
    (S, bins + 1) and `counts` (S, bins); `levels` (S, most levels), NaN behind the last one, of the median group where
    a site has several. Of P norms with C channels at most, NaN behind the last: `norm` (P,), `channel.low`, `.high`,
    `.level_low`, `.level_high`, `.fp_low`, `.fp_high` (P, C).
    """

    bins: int = 64
    detectors: ClassVar[bool] = True

    def check(self, config: RunConfig) -> list[Problem]:
        return [] if self.bins >= 2 else [bad("bins", self.bins, "at least 2 are needed")]

    def applies(self, config: RunConfig) -> str | None:
        return None if config.method.quantizes else "full precision has no quantizers"

    def passes(self, config: RunConfig) -> float:
        return 5.0  # a quantized pass in which every site is sorted into codes and bins, and one of full precision

    def measure(self, subject: Subject, partial: PartialResults) -> dict[str, np.ndarray]:
        watcher, begin = StatisticsObserver(), 0
        if (kept := partial.kept("seen")) is not None:
            begin = watcher.restore(subject.model.sites, kept, subject.device)
        with watching(subject.model.sites.values(), watcher), torch.no_grad():
            for index, (images, _) in enumerate(subject.batches[begin:], begin + 1):
                subject.model(images)
                partial.keep("seen", watcher.state(index))
                partial.tick("distributions")
        seen = [watcher.seen[name] for name in subject.model.sites if name in watcher.seen]
        histograms = [one.counts(self.bins) for one in seen]
        arrays = {
            "site": np.array([one.site.name for one in seen]),
            "kind": np.array([one.site.kind for one in seen]),
            "bits": np.array([one.site.quantizer.bits if one.site.quantizer else 32 for one in seen]),
            "sqnr_db": np.array([one.sqnr for one in seen]),
            "clipped": np.array([one.clip for one in seen]),
            "unused": np.array([one.unused for one in seen]),
            "edges": np.array([edges for edges, _ in histograms]),
            "counts": np.array([counts for _, counts in histograms]),
            "levels": _padded([one.shown_levels() for one in seen]),
        }
        return arrays | _channels(subject, seen)

    def draw(self, arrays: dict[str, np.ndarray], title: str) -> Figure:
        from vitq.plots.distributions import draw

        return draw(arrays, title)


def _channels(subject: Subject, seen: list[SiteStatistics]) -> dict[str, np.ndarray]:
    norms = [one for one in seen if one.low is not None and one.high is not None]
    plain = _full_precision_ranges(subject)
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    for one in norms:
        low, high = plain.get(one.site.owner, (None, None))
        for key, value in (("low", one.low), ("high", one.high), ("fp_low", low), ("fp_high", high)):
            rows[key].append(_numbers(value))
        count = len(rows["low"][-1])
        for key, column in (("level_low", 0), ("level_high", -1)):
            ends = np.full(1, np.nan) if one.levels is None else _numbers(one.levels[:, column])
            rows[key].append(ends if len(ends) == count else np.full(count, ends[0]))
    channels = {f"channel.{key}": _padded(rows[key]) for key in _CHANNELS}
    return {"norm": np.array([one.site.owner for one in norms], dtype=str), **channels}


@torch.no_grad()
def _full_precision_ranges(subject: Subject) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer that reads a norm → (C,) least and largest input of each channel in the full-precision network."""
    ranges: dict[str, tuple[Tensor, Tensor]] = {}
    model = subject.reference.model

    def see(name: str, x: Tensor) -> None:
        low, high = x.flatten(0, -2).amin(dim=0), x.flatten(0, -2).amax(dim=0)
        if name in ranges:
            low, high = torch.minimum(ranges[name][0], low), torch.maximum(ranges[name][1], high)
        ranges[name] = low, high

    with ExitStack() as stack:
        for name in (reader for link in subject.reference.links for reader in link.consumers):
            layer: nn.Module = model.get_submodule(name)
            stack.enter_context(layer.register_forward_pre_hook(lambda _m, args, name=name: see(name, args[0])))
        for images, _ in subject.batches:
            model(images)
    return ranges


def _numbers(x: Tensor | None) -> np.ndarray:
    return np.zeros(0) if x is None else x.double().cpu().numpy()


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    """(len(rows), longest) float64, NaN behind the end of each row."""
    out = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return out
