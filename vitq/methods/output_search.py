"""Output search: quantizers of activations chosen by the error of the product that they enter."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vitq.config import KINDS, RunConfig
from vitq.errors import unknown
from vitq.methods.adalog import AdaLogQuantizer
from vitq.quant.affine import LEAST_SCALE
from vitq.quant.layers import QuantLinear, QuantMatmul
from vitq.quant.logarithmic import LogQuantizer
from vitq.quant.quantizer import Quantizer, may_be
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.layer_walk import Lane, quantized_lane
from vitq.steps.step import Step, Workspace, register_step

SEARCHED = tuple(kind for kind in KINDS if kind not in ("weight", "patch"))
# Bases of adalog are searched from 2^(1/4) to 2^4, far enough that neither end is ever chosen at three bits.
_LEAST_OCTAVE, _MOST_OCTAVE = 0.25, 4.0


@register_step("output_search")
class OutputSearch(Step):
    """min over a quantizer's parameters of ‖(Q(x) − x)·y‖², y the other operand of the product, already quantized.

    Segment by segment in the quantized network, and in a segment in the order that its products run: probs·value for
    probs and value, query·keyᵀ for query and key, x·Wᵀ for a layer's input (W quantized where it is). Quantizers must
    be fitted; where none of those tried is better the fitted one stays. A coarse grid over the parameters, then
    neighbours at half the distance, `rounds` times. Uniform: both ends of the range. Log2 and log√2: the scale.
    AdaLog: base (2^¼ … 2^4) and scale. Source: AdaLog's public code searches its base so, at a scale of 1 (Wu et al.,
    ECCV 2024); scale, zero code and the other kinds are ours [I].

    kinds: which sites. images: the search sees the first so many calibration images (none: all); its time grows with
    them. zero_code: `keep` what the recipe says, or `search`: adalog's last code is zero or a power, whichever is
    better for the site.
    """

    kinds: tuple[str, ...] = ("probs", "post_gelu")
    images: int | None = 8
    rounds: int = 2
    zero_code: Literal["keep", "search"] = "keep"
    packable: ClassVar[bool] = True

    def check(self, config: RunConfig) -> list[str]:
        problems = [unknown("kind of an activation in a product", k, SEARCHED) for k in self.kinds if k not in SEARCHED]
        if self.images is not None and self.images < 1:
            problems.append(f"images={self.images}; at least 1, or null for the whole calibration set")
        if self.rounds < 0:
            problems.append(f"rounds={self.rounds}; 0 (the coarse grid alone) or more")
        for kind in self.kinds:
            wanted = config.method.quantizer(kind)
            if wanted is not None and not may_be(wanted.quantizer, UniformQuantizer, LogQuantizer):
                problems.append(
                    f"kinds.{kind}.quantizer={wanted.quantizer}; searched are uniform, log2, log_sqrt2 and adalog"
                )
        return problems

    def run(self, work: Workspace) -> None:
        lane = quantized_lane(work)
        segments = work.model.structure.segments
        for index, _ in enumerate(work.progress.over(segments, "output_search", len(segments))):
            lane.enter(index)
            for product in _order(work, lane):
                for site in _operands(product):
                    if site.kind in self.kinds and site.on and isinstance(site.quantizer, Quantizer):
                        search_site(self, lane, product, site)
            lane.advance()


Product = QuantLinear | QuantMatmul


def _operands(product: Product) -> tuple[Site, ...]:
    """Activation sites; the right one of a product first: value before probs."""
    if isinstance(product, QuantMatmul):
        return product.right_site, product.left_site
    return (product.input_site,)


@torch.no_grad()
def _order(work: Workspace, lane: Lane) -> list[Product]:
    """The current segment's products in the order they run, seen on one image."""
    seen: list[Product] = []
    handles = [
        module.register_forward_pre_hook(lambda m, _: seen.append(m))
        for name, module in work.model.model.named_modules()
        if isinstance(module, Product) and lane.segment.holds(name)
    ]
    try:
        lane.segment.forward(lane.inputs.select(torch.zeros(1, dtype=torch.int64)))
    finally:
        for handle in handles:
            handle.remove()
    return seen


class _ReachedError(Exception):
    """Ends an evaluation at the product that was asked for."""


@torch.no_grad()
def _arriving(lane: Lane, product: Product, images: int | None) -> tuple[tuple[Tensor, ...], bool]:
    """Operands of a product in the quantized network for the first images, and whether the right one is transposed."""
    found: list[tuple[Tensor, ...]] = []
    transposed = False

    def keep(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, bool]) -> None:
        nonlocal transposed
        transposed = kwargs.get("transpose", False)
        found.append(args)
        raise _ReachedError

    handle = product.register_forward_pre_hook(keep, with_kwargs=True)
    left = len(lane.inputs) if images is None else min(images, len(lane.inputs))
    try:
        for batch in lane.inputs.batches():
            try:
                lane.segment.forward(batch[:left])
            except _ReachedError:
                left -= len(batch)
            if left <= 0:
                break
    finally:
        handle.remove()
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True)), transposed


@torch.no_grad()
def search_site(step: OutputSearch, lane: Lane, product: Product, site: Site) -> None:
    """Search one site; its quantizer has the best parameters found afterwards."""
    quantizer = site.quantizer
    assert quantizer is not None
    operands, transposed = _arriving(lane, product, step.images)
    x, error = _error(product, site, operands, transposed)
    groups = quantizer.layout.groups
    if groups > 1 and quantizer.granularity != "head":
        raise ValueError(
            f"output_search: {site.name} has granularity {quantizer.granularity}; one scale for the tensor or for each "
            "head can be searched: reparameterize first, or leave its kind out of kinds"
        )

    def measured() -> Tensor:
        found = error(quantizer(x))
        return found if groups > 1 else found.sum(0, keepdim=True)

    best = _Best(quantizer, measured())
    flags = (False, True) if step.zero_code == "search" and isinstance(quantizer, AdaLogQuantizer) else (None,)
    for flag in flags:
        if flag is not None:
            quantizer.settings["zero_code"] = flag
        _descend(space_of(quantizer, x), step.rounds, measured, best)
    best.put()


def _error(
    product: Product, site: Site, operands: tuple[Tensor, ...], transposed: bool
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The site's tensor x, and quantized x ↦ (H,) squared error of the product by heads, (1,) for a layer."""
    if isinstance(product, QuantMatmul):
        left, right = operands
        if site is product.left_site:
            other = product.right_site(right)
            other = other.transpose(-2, -1) if transposed else other
            return left, lambda quantized: ((quantized - left) @ other).square_().sum(dim=(0, 2, 3)).double()
        other = product.left_site(left)
        return (
            right,
            lambda quantized: (
                (other @ ((quantized - right).transpose(-2, -1) if transposed else quantized - right))
                .square_()
                .sum(dim=(0, 2, 3))
                .double()
            ),
        )
    weight = product.weight_site(product.weight)
    x = operands[0] if product.balance is None else operands[0] * product.balance
    if weight.shape[0] > weight.shape[1]:
        # ‖eWᵀ‖ = ‖eL‖ for LLᵀ = WᵀW: fewer columns.
        values, vectors = torch.linalg.eigh((weight.T @ weight).double())
        weight = (vectors * values.clamp(min=0).sqrt()).T.float()
    return x, lambda quantized: ((quantized - x) @ weight.T).square_().sum().double().view(1)


class _Best:
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


def space_of(quantizer: Quantizer, x: Tensor) -> Space:
    """The space in which a quantizer is searched. x: what it quantizes."""
    if isinstance(quantizer, AdaLogQuantizer):
        return _AdaLogSpace(quantizer, x)
    if isinstance(quantizer, LogQuantizer):
        return _LogSpace(quantizer, x)
    if isinstance(quantizer, UniformQuantizer):
        return _UniformSpace(quantizer, x)
    raise TypeError(f"output_search knows no {type(quantizer).__name__}")


class _LogSpace(Space):
    """log2 of the scale, relative to the largest value."""

    def __init__(self, quantizer: LogQuantizer, x: Tensor):
        self._quantizer = quantizer
        shift = getattr(quantizer, "shift", 0.0)
        self._high = (quantizer.layout.rows(x).amax(dim=1) + shift).clamp(min=LEAST_SCALE)
        self.grids = [torch.linspace(-4.0, 0.5, 7)]

    def put(self, point: Tensor) -> None:
        self._quantizer.scale = (self._high * torch.exp2(point[-1])).float()


class _AdaLogSpace(_LogSpace):
    """log2 of the octaves for a code, and the scale."""

    def __init__(self, quantizer: AdaLogQuantizer, x: Tensor):
        super().__init__(quantizer, x)
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

    def __init__(self, quantizer: UniformQuantizer, x: Tensor):
        self._quantizer = quantizer
        rows = quantizer.layout.rows(x)
        self._low, self._high = rows.amin(dim=1), rows.amax(dim=1)
        shares = torch.linspace(0.2, 1.0, 5)
        # A side without values has no end to move.
        self.grids = [shares if bool((end != 0).any()) else torch.ones(1) for end in (self._low, self._high)]

    def put(self, point: Tensor) -> None:
        low, high = self._quantizer._widen(self._low * point[0], self._high * point[1])
        scale, zero = self._quantizer.affine(low, high)
        self._quantizer.assign(self._quantizer.layout, scale, zero)


def _descend(space: Space, rounds: int, measured: Callable[[], Tensor], best: _Best) -> None:
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
