"""PTQ4ViT's Hessian-guided scale search (Yuan et al., ECCV 2022, arXiv 2111.12293, section 3.2 and algorithm 1)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from vitq.config import RunConfig
from vitq.errors import Problem, bad
from vitq.methods.layer_records import Record, collect
from vitq.methods.twin import MOST, TwinQuantizer, TwinSoftmaxQuantizer, TwinUniformQuantizer
from vitq.models.structure import Segment
from vitq.quant.layers import QuantConv2d, QuantLinear, QuantMatmul
from vitq.quant.model import QuantizedModel
from vitq.quant.quantizer import may_be
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.step import Network, Step, Workspace, register_step
from vitq.steps.stream import ImageStream, Stream, through
from vitq.steps.waiting import Waiting

# Neighbours on the grid, on either side, that a refinement tries.
_NEAR = 4
Layer = QuantLinear | QuantConv2d | QuantMatmul
# Quantizers with a scale to search.
_SEARCHED = (UniformQuantizer, TwinQuantizer)


@register_step("hessian_search")
class HessianSearch(Step):
    """Scales of both operands of every layer and matmul, searched in turns for the least weighted error of its output.

        min Σ g²·(O − Ô)²,  g = ∂L/∂O,  over scales α·Δ … β·Δ in `candidates` steps, Δ the calibrated (min–max) scale

    O is the full-precision network's output of the layer on full-precision inputs; each output channel of a weight has
    its own scale. Two-region quantizers: post-softmax, the coarse step stays and the ratio 2^m is searched; post-GELU,
    the step of the positive region is searched among the factors, and that of the negative one is the finest with a
    ratio 2^m to it that still covers all negative values (public code has 0.17/2^(b−1) whatever the ratio). rounds:
    turns of weight, then input. coarse: so many grid points are tried first, then the nearest ones of the whole grid
    around the best; later rounds try the nearest ones alone (coarse = candidates: the whole grid at first, as the paper
    does). images: the search sees the first so many calibration images (none: all of them); its time grows with them.

    Where public code takes L as the KL divergence from the network's own unquantized prediction, whose gradient at that
    prediction is zero, g here is that of log p(y|x) for a label y drawn from the prediction: the Fisher information,
    which is what the Hessian of that divergence is.

    Of a detector the answers are drawn at its own boxes (`FixedBoxComparison.likelihood`), image by image; layers of
    the heads are searched on what they read and give there. O of a layer that runs several times for an image, for
    the levels of the pyramid, is all that it gives.
    """

    rounds: int = 3
    candidates: int = 100
    coarse: int = 20
    alpha: float = 0.01
    beta: float = 1.2
    images: int | None = None
    needs_teacher: ClassVar[bool] = True
    depends_on_bits: ClassVar[bool] = True
    detectors: ClassVar[bool] = True

    def check(self, config: RunConfig) -> list[Problem]:
        problems: list[Problem] = []
        if self.rounds < 1 or not 2 <= self.coarse <= self.candidates:
            values = f"rounds={self.rounds}, coarse={self.coarse}, candidates={self.candidates}"
            wrong = ("rounds", self.rounds) if self.rounds < 1 else ("coarse", self.coarse)
            problems.append(Problem(f"{values}; at least one round, and 2 ≤ coarse ≤ candidates", *wrong))
        if self.images is not None and self.images < 1:
            problems.append(bad("images", self.images, "at least 1, or null for the whole calibration set"))
        if not 0 < self.alpha < self.beta:
            text = f"alpha={self.alpha}, beta={self.beta}; 0 < alpha < beta is needed, e.g. 0.01 and 1.2"
            problems.append(Problem(text, "alpha", self.alpha))
        for kind, wanted in config.method.kinds.items():
            if not may_be(wanted.quantizer, *_SEARCHED):
                text = f"kinds.{kind}.quantizer={wanted.quantizer}; searched are uniform and two-region ones"
                problems.append(Problem(text, value=wanted.quantizer))
        weight = config.method.quantizer("weight")
        if weight is not None and (weight.granularity.startswith("group") or weight.quantizer == "dual_uniform"):
            text = (
                f"kinds.weight has quantizer {weight.quantizer}, granularity {weight.granularity}; an output channel "
                "has one scale to search: set uniform and channel (or tensor)"
            )
            problems.append(Problem(text, value=(weight.quantizer, weight.granularity)))
        return problems

    def run(self, work: Workspace) -> None:
        segments = work.model.structure.segments
        generator = torch.Generator().manual_seed(work.config.seed)
        inputs: Stream = ImageStream(work, self.images)
        with work.model.switched_off() as on:
            for index, segment in enumerate(work.progress.over(segments, "hessian_search", len(segments))):
                layers = list(_searched(work.model, segment, on).values())
                # A segment without quantized sites has nothing to search.
                if layers:
                    # What the layers gave is not kept while the next segment's is collected.
                    _search_all(self, layers, collect(work, index, layers, inputs, generator), on)
                inputs = through(segment.forward, inputs, work)

    def waiting(self, network: Network, waiting: Waiting) -> int:
        """Of one network, but operands, output and gradient of all layers of a segment beside its inputs."""
        on, most = network.fitted(self), 0
        for index, segment in enumerate(network.model.structure.segments):
            names = _searched(network.model, segment, on)
            records = sum(waiting.read[name] + 2 * waiting.given[name] for name in names)
            most = max(most, waiting.inputs[index] + max(waiting.outputs[index], records))
        return most * min(waiting.images, self.images or waiting.images)


def _searched(model: QuantizedModel, segment: Segment, on: Collection[Site]) -> dict[str, Layer]:
    """Layers and products of a segment, by name, one of whose operands is among the sites that were on."""
    return {
        name: module
        for name, module in model.model.named_modules()
        if isinstance(module, Layer) and segment.holds(name) and set(on) & set(_operands(module))
    }


def _search_all(step: HessianSearch, layers: Sequence[Layer], records: Sequence[Record], on: Collection[Site]) -> None:
    for layer, record in zip(layers, records, strict=True):
        _search(step, layer, record, [site for site in _operands(layer) if site in on])


def _operands(layer: Layer) -> tuple[Site, Site]:
    """The two sites of a layer, weight or right operand first: the order in which they are searched."""
    return (
        (layer.right_site, layer.left_site) if isinstance(layer, QuantMatmul) else (layer.weight_site, layer.input_site)
    )


class _Candidates:
    """Candidates of a quantizer: factors of its scale, or ratios of its two regions. index: (G,) the choice.

    least: the least value that reaches the site, where its quantizer has a negative region of its own.
    """

    def __init__(self, step: HessianSearch, site: Site, least: float):
        quantizer = site.quantizer
        if not isinstance(quantizer, _SEARCHED):
            raise TypeError(f"{site.name}: hessian_search knows uniform and two-region quantizers alone")
        self.quantizer = quantizer
        self.scale = quantizer.scale.clone()
        self.least = least
        if isinstance(quantizer, TwinQuantizer):
            self.top = quantizer.scale * torch.exp2(quantizer.exponent)
        if isinstance(quantizer, TwinSoftmaxQuantizer):
            self.values = torch.tensor(quantizer.exponents, dtype=torch.float32, device=self.scale.device)
            start = quantizer.exponent - self.values[0]
        else:
            self.values = torch.linspace(step.alpha, step.beta, step.candidates, device=self.scale.device)
            start = (self.values - 1).abs().argmin().expand(len(self.scale))
        self.index = start.to(torch.int64)

    def put(self, index: Tensor) -> None:
        """Give the quantizer the candidate of each group."""
        if isinstance(self.quantizer, TwinUniformQuantizer):
            top = self.top * self.values[index]
            needed = max(-self.least, 0.0) / self.quantizer.part
            ratios = self.quantizer.exponents
            # A tensor without negative values: the finest step, which nothing takes.
            exponent = torch.log2(top / needed).floor() if needed else torch.full_like(top, MOST)
            exponent = exponent.clamp(min(ratios), max(ratios))
            self.quantizer.scale, self.quantizer.exponent = top * torch.exp2(-exponent), exponent
        elif isinstance(self.quantizer, TwinSoftmaxQuantizer):
            exponent = self.values[index]
            self.quantizer.scale, self.quantizer.exponent = self.top * torch.exp2(-exponent), exponent
        else:
            self.quantizer.scale = self.scale * self.values[index]
            self.quantizer.refresh()

    def around(self, reach: int, stride: int = 1) -> list[Tensor]:
        """The present choice, then its neighbours."""
        last = len(self.values) - 1
        offsets = [0, *(sign * stride * k for k in range(1, reach + 1) for sign in (-1, 1))]
        return [(self.index + offset).clamp(0, last) for offset in offsets]

    def spaced(self, count: int) -> list[Tensor]:
        """The present choice, then evenly spaced ones over the whole grid."""
        spaced = torch.linspace(0, len(self.values) - 1, min(count, len(self.values)))
        positions = spaced.round().to(torch.int64).unique()
        return [self.index, *(torch.full_like(self.index, int(position)) for position in positions)]


@torch.no_grad()
def _search(step: HessianSearch, layer: Layer, record: Record, sites: Sequence[Site]) -> None:
    grids = {}
    for site in sites:
        least = 0.0
        if isinstance(site.quantizer, TwinUniformQuantizer):
            operand = 1 if isinstance(layer, QuantMatmul) and site is layer.right_site else 0
            least = min((float(operands[operand].min()) for operands in record.batches()), default=0.0)
        grids[site.name] = _Candidates(step, site, least)
    for turn in range(step.rounds):
        for site in sites:
            grid = grids[site.name]
            if turn == 0:
                _choose(layer, record, site, sites, grid, grid.spaced(step.coarse))
            _choose(layer, record, site, sites, grid, grid.around(_NEAR))


def _choose(
    layer: Layer, record: Record, site: Site, sites: Sequence[Site], grid: _Candidates, tried: list[Tensor]
) -> None:
    """Take the candidate of least error for each group; ties keep the present one."""
    channels = site.is_weight and len(grid.index) > 1
    total = torch.zeros(len(tried), len(grid.index) if channels else 1, dtype=torch.float64, device=grid.scale.device)
    for *operands, output, gradient in record.batches():
        operands, output, gradient = [_rows(o) for o in operands], _rows(output), _rows(gradient)
        weight = gradient.square()
        # The other operand is quantized once for all candidates.
        for other in sites:
            other.on = other is not site
        fixed = _quantized(layer, operands)
        site.on = True
        for number, index in enumerate(tried):
            grid.put(index)
            error = (_output(layer, fixed, site, record.transpose) - output).square_().mul_(weight)
            if channels:
                axis = 1 if isinstance(layer, QuantConv2d) else error.ndim - 1
                total[number] += error.sum(dim=[d for d in range(error.ndim) if d != axis], dtype=torch.float64)
            else:
                total[number] += error.sum(dtype=torch.float64)
    best = total.argmin(dim=0).expand(len(grid.index))
    grid.index = torch.stack(tried).gather(0, best.unsqueeze(0)).squeeze(0)
    grid.put(grid.index)
    for other in sites:
        other.on = False


def _rows(x: Tensor) -> Tensor:
    """Windows back in front: (B, windows, h, N, d) → (B·windows, h, N, d); four dimensions and less as they are."""
    return x.flatten(0, 1) if x.ndim == 5 else x


def _quantized(layer: Layer, operands: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Both operands through their sites as they are switched now: (left or input, right or weight)."""
    right_site, left_site = _operands(layer)
    return left_site(operands[0]), right_site(operands[1] if isinstance(layer, QuantMatmul) else layer.weight)


def _output(layer: Layer, operands: tuple[Tensor, Tensor], site: Site, transpose: bool) -> Tensor:
    """The layer's output where `site` quantizes its operand with the present candidate."""
    left, right = operands
    left, right = (left, site(right)) if site is _operands(layer)[0] else (site(left), right)
    if isinstance(layer, QuantMatmul):
        return left @ (right.transpose(-2, -1) if transpose else right)
    if isinstance(layer, QuantConv2d):
        out: Tensor = layer._conv_forward(left, right, layer.bias)
        return out
    return nn.functional.linear(left, right, layer.bias)
