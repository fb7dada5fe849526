"""Streaming histogram with bounded memory, exact counts and a result that does not depend on the order of batches."""

from __future__ import annotations

import torch
from torch import Tensor

from vitq.errors import Problem
from vitq.quant.distribution import Distribution
from vitq.quant.layout import Layout

# Elements handled at a time, so that temporaries stay in the processor's cache.
_CHUNK = 1 << 18
# Narrowest bin: groups that only ever saw zeros keep it.
_FLOOR = -40


class Histogram:
    """Counts of G groups on dyadic bins.

    Group g has `bins` bins of width 2^k[g] centred on zero: bin i covers [(i - bins/2)·2^k, (i + 1 - bins/2)·2^k).
    When a value falls outside, k grows and neighbouring bins are merged. Scaling by a power of two is exact in floating
    point, so the final counts are those of one pass with the final width: no first pass for the range is needed, and
    neither batch size nor order changes a count.
    """

    def __init__(self, bins: int = 16384, channel_bins: int = 2048):
        self._bins_one, self._bins_many = bins, channel_bins
        self.layout: Layout | None = None
        self.counts: Tensor
        self.exponent: Tensor
        self.low: Tensor
        self.high: Tensor

    @torch.no_grad()
    def update(self, x: Tensor, layout: Layout) -> None:
        """Add a tensor. Raises ValueError on NaN or infinity, or when the number of groups changes."""
        if not x.numel():  # no box of an image reached a detector's head
            return
        rows_low, rows_high = _extrema(x, layout)
        if not (torch.isfinite(rows_low).all() and torch.isfinite(rows_high).all()):
            text = "cannot calibrate: the activations hold NaN or infinity; check the checkpoint and the preprocessing"
            raise ValueError(Problem(text, "activations"))
        if self.layout is None:
            self._start(layout, x.device)
        elif self.layout.groups != layout.groups:
            text = (
                f"the number of groups changed from {self.layout.groups} to {layout.groups} between batches; "
                "use granularity tensor or channel"
            )
            raise ValueError(Problem(text, "groups", layout.groups, [self.layout.groups]))
        self.low = torch.minimum(self.low, rows_low)
        self.high = torch.maximum(self.high, rows_high)
        self._grow(torch.maximum(-rows_low, rows_high))
        self._count(layout.expand(x), layout)

    def distribution(self) -> Distribution:
        """The groups' values (bin centres) and counts. Raises ValueError when nothing was seen."""
        if self.layout is None:
            raise ValueError(Problem("the histogram is empty: no calibration image reached this site", "histogram"))
        half = self.bins // 2
        width = torch.exp2(self.exponent.float())
        counts = self.counts
        if self.groups == 1:
            # One group: only bins in use matter to a search.
            used = counts[0].nonzero().squeeze(1)
            values = (used.float() - half + 0.5).unsqueeze(0) * width.unsqueeze(1)
            counts = counts[:, used]
        else:
            values = (torch.arange(self.bins, device=counts.device).float() - half + 0.5) * width.unsqueeze(1)
        values = values.clamp(self.low.unsqueeze(1), self.high.unsqueeze(1))
        return Distribution(values, counts.double(), self.low, self.high)

    @property
    def groups(self) -> int:
        return self.counts.shape[0]

    @property
    def bins(self) -> int:
        return self.counts.shape[1]

    def _start(self, layout: Layout, device: torch.device) -> None:
        self.layout = layout
        bins = self._bins_one if layout.groups == 1 else self._bins_many
        self.counts = torch.zeros(layout.groups, bins, dtype=torch.int64, device=device)
        self.exponent = torch.full((layout.groups,), _FLOOR, dtype=torch.int32, device=device)
        self.low = torch.full((layout.groups,), torch.inf, device=device)
        self.high = torch.full((layout.groups,), -torch.inf, device=device)

    def _grow(self, bound: Tensor) -> None:
        """Widen the bins of groups whose absolute value reaches `bound` (G,)."""
        half = self.bins // 2
        # frexp: bound = m·2^e with m in [0.5, 1), hence bound < 2^e = half·2^(e - log2(half)).
        needed = torch.frexp(bound).exponent - (half.bit_length() - 1)
        needed = torch.maximum(needed.to(torch.int32), self.exponent)
        empty = self.counts.sum(dim=1) == 0
        steps = torch.where(empty, torch.zeros_like(needed), needed - self.exponent)
        self.exponent = needed
        while bool((steps > 0).any()):
            growing = steps > 0
            self.counts[growing] = _halve(self.counts[growing])
            steps = steps - growing.to(steps.dtype)

    def _count(self, x: Tensor, layout: Layout) -> None:
        half, bins, groups = self.bins // 2, self.bins, self.groups
        inverse = torch.exp2(-self.exponent.float())
        if groups == 1:
            factor = float(inverse[0])
            for chunk in x.reshape(-1).split(_CHUNK):
                index = (chunk * factor).floor_().to(torch.int32).add_(half)
                self.counts[0] += torch.bincount(index, minlength=bins)
            return
        offset = (torch.arange(groups, device=x.device, dtype=torch.int32) * bins + half).view(layout.params)
        scale = inverse.view(layout.params)
        # Split along the batch so that temporaries stay small; every group dimension is kept whole.
        per_image = max(1, x[0].numel())
        chunks = x.split(max(1, _CHUNK // per_image)) if layout.params[0] == 1 else (x,)
        for chunk in chunks:
            index = (chunk * scale).floor_().to(torch.int32).add_(offset)
            self.counts += torch.bincount(index.reshape(-1), minlength=groups * bins).view(groups, bins)


def _extrema(x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    x = layout.expand(x)
    if layout.groups == 1:
        low, high = x.aminmax()
        return low.view(1), high.view(1)
    others = [dim for dim, size in enumerate(layout.params) if size == 1]
    return x.amin(dim=others).reshape(-1), x.amax(dim=others).reshape(-1)


def _halve(counts: Tensor) -> Tensor:
    """Counts on bins twice as wide: pairs merge around the centre."""
    groups, bins = counts.shape
    merged = torch.zeros_like(counts)
    merged[:, bins // 4 : bins // 4 + bins // 2] = counts.view(groups, bins // 2, 2).sum(dim=2)
    return merged
