"""Search of a quantizer's parameters: the space of each kind, a coarse grid, then ever nearer neighbours."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vitq.methods.adalog import AdaLogQuantizer
from vitq.quant.affine import LEAST_SCALE
from vitq.quant.logarithmic import LogQuantizer
from vitq.quant.quantizer import Quantizer
from vitq.quant.uniform import UniformQuantizer

# Bases of adalog are searched from 2^(1/4) to 2^4, far enough that neither end is ever chosen at three bits.
_LEAST_OCTAVE, _MOST_OCTAVE = 0.25, 4.0


class Best:
    """Parameters of least error so far, for each group; the settings that go with them (one group)."""

    def __init__(self, quantizer: Quantizer, error: Tensor):
        self._quantizer = quantizer
        self.error = error
        self.parameters = {name: getattr(quantizer, name).clone() for name in quantizer.parameter_names}
        self.settings = dict(quantizer.settings)

    def offer(self, error: Tensor) -> Tensor:
        """(G,) bool: where the present parameters are better."""
        better = error < self.error
        if bool(better.any()):
            for name, kept in self.parameters.items():
                self.parameters[name] = torch.where(better, getattr(self._quantizer, name), kept)
            self.error = torch.where(better, error, self.error)
            self.settings = dict(self._quantizer.settings)
        return better

    def put(self) -> None:
        """Give them to the quantizer."""
        self._quantizer.settings = self.settings
        self._quantizer.set_parameters(self._quantizer.layout, **self.parameters)
        self._quantizer.refresh()


class Space(ABC):
    """Coordinates of a quantizer's parameters. grids: the coarse values of each coordinate, evenly spaced."""

    grids: list[Tensor]

    @abstractmethod
    def put(self, point: Tensor) -> None:
        """Give the quantizer the parameters of a point (k, G)."""


def space_of(quantizer: Quantizer, rows: Tensor) -> Space:
    """The space in which a quantizer is searched. rows: (G, N), what its groups quantize."""
    if isinstance(quantizer, AdaLogQuantizer):
        return _AdaLogSpace(quantizer, rows)
    if isinstance(quantizer, LogQuantizer):
        return _LogSpace(quantizer, rows)
    if isinstance(quantizer, UniformQuantizer):
        return _UniformSpace(quantizer, rows)
    raise TypeError(f"output_search knows no {type(quantizer).__name__}")


class _LogSpace(Space):
    """log2 of the scale, relative to the largest value."""

    def __init__(self, quantizer: LogQuantizer, rows: Tensor):
        self._quantizer = quantizer
        shift = getattr(quantizer, "shift", 0.0)
        self._high = (rows.amax(dim=1) + shift).clamp(min=LEAST_SCALE)
        self.grids = [torch.linspace(-4.0, 0.5, 7)]

    def put(self, point: Tensor) -> None:
        self._quantizer.scale = (self._high * torch.exp2(point[-1])).float()


class _AdaLogSpace(_LogSpace):
    """log2 of the octaves for a code, and the scale."""

    def __init__(self, quantizer: AdaLogQuantizer, rows: Tensor):
        super().__init__(quantizer, rows)
        self._resolution = quantizer.resolution
        ends = torch.tensor([_LEAST_OCTAVE, _MOST_OCTAVE]).log2()
        self.grids = [torch.linspace(float(ends[0]), float(ends[1]), 9), *self.grids]

    def put(self, point: Tensor) -> None:
        super().put(point)
        most = _MOST_OCTAVE * self._resolution
        base = (torch.exp2(point[0]) * self._resolution).round().clamp(1, most)
        assert isinstance(self._quantizer, AdaLogQuantizer)
        self._quantizer.base = base.float()


class _UniformSpace(Space):
    """Shares of the least and of the largest value at which the range ends."""

    def __init__(self, quantizer: UniformQuantizer, rows: Tensor):
        self._quantizer = quantizer
        self._low, self._high = rows.amin(dim=1), rows.amax(dim=1)
        shares = torch.linspace(0.2, 1.0, 5)
        # A side without values has no end to move.
        self.grids = [shares if bool((end != 0).any()) else torch.ones(1) for end in (self._low, self._high)]

    def put(self, point: Tensor) -> None:
        low, high = self._quantizer.widen(self._low * point[0], self._high * point[1])
        scale, zero = self._quantizer.affine(low, high)
        self._quantizer.assign(self._quantizer.layout, scale, zero)


def descend(space: Space, rounds: int, measured: Callable[[], Tensor], best: Best) -> None:
    """The coarse grid, then each coordinate's neighbours of the best point, the distance halved in each round."""
    device, groups = best.error.device, len(best.error)
    centre = torch.stack([grid[len(grid) // 2] for grid in space.grids]).to(device)
    centre = centre.unsqueeze(1).expand(-1, groups).clone()
    least = torch.full_like(best.error, torch.inf)

    def offer(point: Tensor) -> None:
        nonlocal least, centre
        space.put(point)
        error = measured()
        best.offer(error)
        better = error < least
        least = torch.where(better, error, least)
        centre = torch.where(better, point, centre)

    for values in itertools.product(*space.grids):
        offer(torch.stack(values).to(device).unsqueeze(1).expand(-1, groups))
    for halving in range(1, rounds + 1):
        for point in list(_neighbours(space, centre, halving)):
            offer(point)


def _neighbours(space: Space, centre: Tensor, halving: int) -> Iterator[Tensor]:
    for moves in itertools.product((-1, 0, 1), repeat=len(space.grids)):
        steps = [float(g[1] - g[0]) / 2**halving if len(g) > 1 else 0.0 for g in space.grids]
        shift = torch.tensor([m * s for m, s in zip(moves, steps, strict=True)], device=centre.device)
        if bool((shift != 0).any()):
            yield centre + shift.unsqueeze(1)
