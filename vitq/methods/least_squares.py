"""Weights in closed form: ridge regression onto quantized inputs, then codes and row ranges by what they cost."""

from __future__ import annotations

import torch
from torch import Tensor

from vitq.config import RunConfig
from vitq.errors import Problem, bad
from vitq.methods.erq import Moments, aqer
from vitq.methods.gptq import solve
from vitq.quant.layout import Layout
from vitq.steps.layer_walk import Layer, NetworkWalk, layers, quantized_walk
from vitq.steps.step import Workspace, register_step
from vitq.steps.weight_grid import Grid, WeightStep, add_bias, as_rows, damped, put_weight, uniform_of


@register_step("least_squares")
class LeastSquares(WeightStep):
    """min over Ŵ on its grid and b of ‖WX + b₀ − ŴX̄ − b‖² + λ‖W − Ŵ‖², for each layer in the order they run.

    X is what the layer reads in the quantized network before its own input is quantized, X̄ the same after it.
    regress: W becomes the ridge solution in floating point first (ERQ's Aqer, with an intercept).
    ranges: of so many shrunken ranges of each row, and then of as many neighbours with unequal ends, the row takes the
        one after whose rounding column by column (GPTQ) the error Δw·G·Δwᵀ is least, G = Σx̄x̄ᵀ + λI of deviations from
        the mean. 0: the range that the weight quantizer's own search finds.
    sweeps: afterwards each column in turn moves to the code that is best with all others as they are, so many times;
        scales are refitted in between. 0: none.
    images: the first so many calibration images count (none: all).
    penalty, penalty_head: λ for sums over all images and positions. What is left of the mean goes into the bias.

    Sources: Aqer of ERQ (arXiv 2407.06794), GPTQ (arXiv 2210.17323), coordinate descent on codes (QuantEase, arXiv
    2309.01885); ranges by the error after rounding are ours [I].
    """

    regress: bool = True
    ranges: int = 8
    sweeps: int = 3
    images: int | None = None
    penalty: float = 1000.0
    penalty_head: float = 1000.0

    def check(self, config: RunConfig) -> list[Problem]:
        problems = super().check(config)
        for name in ("penalty", "penalty_head"):
            if getattr(self, name) <= 0:
                problems.append(bad(name, getattr(self, name), "a number above 0 is needed, e.g. 1000"))
        if self.images is not None and self.images < 1:
            problems.append(bad("images", self.images, "at least 1, or null for the whole calibration set"))
        for name in ("ranges", "sweeps"):
            if getattr(self, name) < 0:
                problems.append(bad(name, getattr(self, name), "a whole number of at least 0 is needed"))
        weight = config.method.quantizer("weight")
        if weight is not None and (weight.quantizer, weight.granularity) != ("uniform", "channel"):
            text = (
                f"kinds.weight has quantizer {weight.quantizer}, granularity {weight.granularity}; least_squares fits "
                "one range for each output channel: set uniform and channel"
            )
            problems.append(Problem(text, value=(weight.quantizer, weight.granularity), valid=[("uniform", "channel")]))
        return problems

    def run(self, work: Workspace) -> None:
        walk = quantized_walk(work, self.images)
        for name, layer in layers(work, [walk], "least_squares"):
            penalty = self.penalty_head if name in work.model.structure.head else self.penalty
            self._update(layer, moments(layer, name, walk), penalty)

    @torch.no_grad()
    def _update(self, layer: Layer, seen: Moments, penalty: float) -> None:
        weight = layer.weight.data.flatten(1).double()
        if self.regress:
            weight, shift = aqer(weight, seen, penalty, bias=True)
            put_weight(layer, weight)
            add_bias(layer, shift)
        site = layer.weight_site
        if site.quantizer is None:
            return
        quantizer = uniform_of(site)
        quantizer.fit_tensor(layer.weight)
        gram = damped(seen.gram(centred=True), penalty)
        grid = Grid.of(quantizer, layer.weight.data)
        rounded = solve(weight, gram, grid, damping=0.0, act_order=True)
        if self.ranges:
            rounded, grid = fit_ranges(weight, gram, grid, rounded, self.ranges)
        for _ in range(self.sweeps):
            rounded = descend(weight, gram, grid, rounded)
            grid, rounded = refit(weight, gram, grid, rounded)
        shape = tuple(layer.weight.shape)
        layout = Layout.of("channel", site.axes, shape)
        quantizer.assign(layout, grid.scale[:, 0].float(), grid.zero[:, 0].float())
        # On the grid that the quantizer holds in float32, so that a round trip changes nothing.
        held = Grid.of(quantizer, layer.weight.data)
        rounded = held.decode(grid.encode(rounded))
        put_weight(layer, rounded)
        site.on = True
        add_bias(layer, (weight - rounded) @ seen.mean)


@torch.no_grad()
def moments(layer: Layer, name: str, walk: NetworkWalk) -> Moments:
    """Of a layer's inputs x in the quantized network and x̄, the same after its own input is quantized; one pass."""
    inputs = layer.weight[0].numel()
    square, cross = (torch.zeros(inputs, inputs, dtype=torch.float64, device=layer.weight.device) for _ in range(2))
    mean, difference, count = square.new_zeros(inputs), square.new_zeros(inputs), 0
    for x in walk.arriving(f"{name}.input_site"):
        rows = as_rows(layer, layer.input_site(x))
        square += rows.T @ rows
        mean += rows.sum(dim=0, dtype=torch.float64)
        count += len(rows)
        if layer.input_site.on:
            error = as_rows(layer, x) - rows
            cross += error.T @ rows
            difference += error.sum(dim=0, dtype=torch.float64)
    return Moments(square, cross, mean / count, difference / count, count)


def cost(error: Tensor, gram: Tensor) -> Tensor:
    """(O,) Δw·G·Δwᵀ of each row of (O, I)."""
    return ((error @ gram) * error).sum(dim=1)


def fit_ranges(weight: Tensor, gram: Tensor, grid: Grid, rounded: Tensor, count: int) -> tuple[Tensor, Grid]:
    """Rounded weight and grid with the best range of each row. grid, rounded: what there is already."""
    least = cost(rounded - weight, gram)
    scale, zero = grid.scale[:, 0], grid.zero[:, 0]
    low, high = weight.amin(dim=1).clamp(max=0), weight.amax(dim=1).clamp(min=0)
    ends = torch.ones(2, len(weight), dtype=weight.dtype, device=weight.device)
    step = 0.5 / max(count - 1, 1)
    tried = [torch.full_like(ends, 1 - step * index) for index in range(count)]
    for turn in range(2):
        if turn:
            # Unequal ends around the best equal ones.
            tried = [ends + step * end.view(2, 1) for end in _AROUND.to(ends)]
        candidates = torch.stack(tried)  # (K, 2, O)
        scales = ((high * candidates[:, 1] - low * candidates[:, 0]) / (grid.codes - 1)).clamp(min=1e-30)
        zeros = torch.round(-low * candidates[:, 0] / scales)
        wide = [p.reshape(-1, 1).expand(-1, weight.shape[1]) for p in (scales, zeros)]
        many = Grid(wide[0], wide[1], grid.codes)
        solved = solve(weight.repeat(len(tried), 1), gram, many, damping=0.0, act_order=True)
        errors = cost(solved - weight.repeat(len(tried), 1), gram).view(len(tried), -1)
        best = errors.argmin(dim=0)
        rows = torch.arange(len(weight), device=weight.device)
        better = errors[best, rows] < least
        least = torch.where(better, errors[best, rows], least)
        rounded = torch.where(better.unsqueeze(1), solved.view(len(tried), *weight.shape)[best, rows], rounded)
        scale, zero = torch.where(better, scales[best, rows], scale), torch.where(better, zeros[best, rows], zero)
        ends = torch.where(better, candidates[best, :, rows].T, ends)
    scale, zero = (p.unsqueeze(1).expand_as(weight).contiguous() for p in (scale, zero))
    return rounded, Grid(scale, zero, grid.codes)


_AROUND = torch.tensor([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)], dtype=torch.float64)


def descend(weight: Tensor, gram: Tensor, grid: Grid, rounded: Tensor) -> Tensor:
    """One sweep of coordinate descent over the columns: the error of no row rises."""
    # Columns as rows: each one is contiguous.
    now, scale, zero = (m.T.contiguous() for m in (rounded, grid.scale, grid.zero))
    slope = gram @ (rounded - weight).T
    for j in range(len(now)):
        column = Grid(scale[j], zero[j], grid.codes)
        new = column.decode(column.encode(now[j] - slope[j] / gram[j, j]))
        slope.addr_(gram[j], new - now[j])
        now[j] = new
    return now.T.contiguous()


def refit(weight: Tensor, gram: Tensor, grid: Grid, rounded: Tensor) -> tuple[Grid, Tensor]:
    """The best scale of each row for its codes, and the weight rounded so."""
    codes = rounded / grid.scale  # less the zero point
    moved = codes @ gram
    over = (moved * codes).sum(dim=1, keepdim=True)
    factor = (moved * weight).sum(dim=1, keepdim=True)
    scale = torch.where((over > 0) & (factor > 0), factor / over.clamp(min=1e-300), grid.scale[:, :1])
    scale = scale.expand_as(weight).contiguous()
    return Grid(scale, grid.zero, grid.codes), codes * scale
