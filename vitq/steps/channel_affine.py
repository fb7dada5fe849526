"""Channel affine: a factor and a shift for each output channel, in closed form, folded into scales and biases."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from vitq.config import RunConfig
from vitq.errors import Problem
from vitq.quant.layers import QuantConv2d
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.hold_out import learned_from, none_left, warn_unjudged
from vitq.steps.layer_walk import Layer, NetworkWalk, layers, quantized_walk, teacher_walk
from vitq.steps.step import NotNegative, Step, Workspace, register_step
from vitq.steps.weight_grid import add_bias, needs_uniform_weights, put_weight


@register_step("channel_affine")
class ChannelAffine(Step):
    """ŷ ← a·ŷ + b for each output channel of each layer: least squares onto the full-precision layer's output y.

        a = 1 + cov(ŷ, y − ŷ) / (var(ŷ) + penalty·v̄),  b = E[y − a·ŷ],  v̄: mean of var(ŷ) over the layer's channels

    over calibration images and positions, in the order that layers run, each on the network whose earlier layers are
    done. a goes into the scale of the channel's weights, whose codes stay, and b into the bias: nothing is left to
    compute at run time. `bias_correction` is a = 1. QwT (CVPR 2025) adds a full-precision layer to each block, which
    costs bits; of its second version it is known that its form is diagonal and can be folded. Reading [I]: layer by
    layer, on the layer's own output.

    input: what the full-precision side reads, as in `bias_correction`. hold_out: share of the images, the last ones,
    that are not fitted to: a channel keeps a and b where its squared error fell on them (QwT: where R² > 0); 0: always.
    A channel whose a would not be above 0 is left with the shift alone.
    """

    input: Literal["fp", "quantized"] = "fp"
    penalty: NotNegative = 1e-3
    hold_out: Annotated[float, Field(ge=0, lt=1)] = 0.25
    needs_teacher: ClassVar[bool] = True
    depends_on_bits: ClassVar[bool] = True
    tunes_weights: ClassVar[bool] = True

    def check(self, config: RunConfig) -> list[Problem]:
        weight = config.method.quantizer("weight")
        problems = [] if weight is None else needs_uniform_weights(config, self.name)
        if weight is not None and weight.granularity == "tensor":
            text = "one scale for the whole weight cannot hold a factor for each channel; valid: channel, group:N"
            problems.append(Problem(text, value="tensor", valid=["channel", "group:N"]))
        return problems + none_left(config, self.hold_out)

    def run(self, work: Workspace) -> None:
        quantized, exact = quantized_walk(work), teacher_walk(work)
        warn_unjudged(self.name, len(work.calib), self.hold_out)
        for name, layer in layers(work, [quantized, exact], "channel_affine"):
            if self.input == "quantized":
                exact.inputs = quantized.inputs
            slope, shift = self.fitted(work, quantized, exact, name)
            fold(layer, 1 + slope, shift)

    @torch.no_grad()
    def fitted(self, work: Workspace, quantized: NetworkWalk, exact: NetworkWalk, name: str) -> tuple[Tensor, Tensor]:
        """a − 1 and b of one layer, (channels,) float64."""
        layer, target = quantized.module(name), exact.module(name)
        channel = 1 if isinstance(layer, QuantConv2d) else -1
        moved = work.moved.get(name, torch.zeros((), device=work.device)).float()
        fit, held = Sums(), Sums()
        left, learned = len(work.calib), learned_from(len(work.calib), self.hold_out)
        for x_quantized, x_exact in zip(quantized.arriving(name), exact.arriving(name), strict=True):
            given = layer(x_quantized).movedim(channel, -1)
            error = target(x_exact).movedim(channel, -1) + moved - given
            # Windows of one image lie side by side, so that an image is a run of rows.
            images = min(work.config.calib.batch_size, left)
            split = min(max(learned, 0), images) * (len(given) // images)
            fit.add(given[:split], error[:split])
            held.add(given[split:], error[split:])
            left, learned = left - images, learned - images
        slope, shift = fit.solve(self.penalty)
        if not held.count:
            return slope, shift
        kept = held.error(slope, shift) < held.error(torch.zeros_like(slope), torch.zeros_like(shift))
        return torch.where(kept, slope, 0.0), torch.where(kept, shift, 0.0)


class Sums:
    """What least squares of r = y − ŷ on ŷ needs: Σŷ, Σr, Σŷ², Σŷr, Σr² over rows, (channels,) float64 each."""

    def __init__(self) -> None:
        self.count = 0
        self._sums = torch.zeros(5, 1, dtype=torch.float64)

    def add(self, given: Tensor, error: Tensor) -> None:
        """Rows of ŷ and of r, (…, channels)."""
        y, r = given.flatten(0, -2).double(), error.flatten(0, -2).double()
        self.count += len(y)
        parts = torch.stack([part.sum(dim=0) for part in (y, r, y * y, y * r, r * r)])
        self._sums = self._sums.to(parts.device) + parts

    def solve(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Slope and shift of least Σ(r − slope·ŷ − shift)² + penalty·v̄·n·slope²; slope 0 where it is not above −1."""
        y, r, yy, yr, _ = (self._sums / self.count).unbind()
        variance = (yy - y * y).clamp(min=0)
        ridge = variance + penalty * variance.mean()
        slope = torch.where(ridge > 0, (yr - y * r) / ridge.clamp(min=torch.finfo(ridge.dtype).tiny), 0.0)
        slope = torch.where(slope > -1, slope, 0.0)
        return slope, r - slope * y

    def error(self, slope: Tensor, shift: Tensor) -> Tensor:
        """Mean (r − slope·ŷ − shift)² of each channel."""
        y, r, yy, yr, rr = (self._sums / self.count).unbind()
        return rr + slope.square() * yy + shift.square() - 2 * (slope * yr + shift * r - slope * shift * y)


@torch.no_grad()
def fold(layer: Layer, factor: Tensor, shift: Tensor) -> None:
    """ŷ ← factor·ŷ + shift of each output channel, (O,) float64, in a layer's weight scales and bias. Codes stay.

    Raises ValueError for a weight whose quantizer has no scales of single channels.
    """
    site, rows = layer.weight_site, layer.weight.flatten(1).double()
    if site.on and site.quantizer is not None:
        quantizer = site.quantizer
        groups = quantizer.layout.groups
        if type(quantizer) is not UniformQuantizer or groups % len(factor):
            text = f"channel_affine: {site.name} is not quantized by uniform scales for channels; leave the step out"
            raise ValueError(Problem(text, "quantizer", site.name, ["uniform"]))
        codes = quantizer.encode(layer.weight)
        scale = quantizer.scale.double() * factor.repeat_interleave(groups // len(factor))
        quantizer.assign(quantizer.layout, scale.float(), quantizer.zero_point)
        rows = quantizer.decode(codes).flatten(1).double()
    else:
        rows = rows * factor.unsqueeze(1)
    put_weight(layer, rows)
    if layer.bias is not None:
        layer.bias.data = (layer.bias.double() * factor).to(layer.weight.dtype)
    add_bias(layer, shift)
