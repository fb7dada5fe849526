"""Equalize: even out the channels of linear layers' inputs without changing the full-precision function."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vitq.config import RunConfig
from vitq.errors import Problem, unknown
from vitq.models.structure import Segment
from vitq.quant.distribution import Distribution
from vitq.quant.histogram import Histogram
from vitq.quant.layers import QuantLinear
from vitq.quant.layout import Axes, Layout
from vitq.quant.quantizer import Quantizer
from vitq.quant.site import Site, watching
from vitq.steps.equalize_rules import BALANCES, pooled, power_of_two
from vitq.steps.fold_norm import bias_of, fold
from vitq.steps.step import Network, Step, Workspace, register_step
from vitq.steps.stream import ImageStream, Stream, through

# Kinds of linear inputs that no norm precedes.
BARE = ("attn_out", "post_gelu", "other")
GRID = tuple(i / 10 for i in range(11))


@register_step("equalize")
class Equalize(Step):
    """x̃ = (x + shift) / ratio for each channel of a linear layer's input, undone in the layer.

    rule: `sq_b` (MPTQ-ViT) or `aocq` (equalize_rules.py). strength: α or β, the same everywhere, or `search`: for each
        layer the one of `candidates` whose quantized output is nearest to the full-precision one in squared error over
        all calibration images, with the recipe's own quantizers of input and weight. Ties keep the earlier candidate.
    shift: centre each channel first, b = (max + min)/2. It is left out where zeros are padded between norm and layer
        (Swin windows that do not divide the feature map), which it would move, and where the norm has no bias.
    power_of_two: round the ratios to powers of two.
    norms: equalize the inputs of layers that read a norm; folded into the norm, so that nothing is added at run time.
    bare: kinds of inputs that no norm precedes (attn_out, post_gelu, other) to equalize too: their ratios are always
        powers of two, never shifted, and the input is multiplied by them at run time (`QuantLinear.balance`).

    Every chosen strength is in the progress notes and in `QuantLinear.equalized`.
    """

    rule: str = "sq_b"
    strength: float | Literal["search"] = "search"
    candidates: tuple[float, ...] = GRID
    shift: bool = True
    power_of_two: bool = False
    norms: bool = True
    bare: tuple[str, ...] = ()
    changes_weights: ClassVar[bool] = True
    detectors: ClassVar[bool] = True

    def check(self, config: RunConfig) -> list[Problem]:
        problems = [] if self.rule in BALANCES else [unknown("rule of equalize", self.rule, BALANCES, key="rule")]
        problems += [unknown("kind without a norm", kind, BARE, key="bare") for kind in self.bare if kind not in BARE]
        strengths = self.candidates if self.strength == "search" else (float(self.strength),)
        if not strengths or not all(0 <= value <= 1 for value in strengths):
            text = f"strength={self.strength}, candidates={list(self.candidates)}; valid: between 0 and 1"
            wrong = ("candidates", self.candidates) if self.strength == "search" else ("strength", self.strength)
            problems.append(Problem(text, *wrong))
        if not (self.norms or self.bare):
            text = "norms=false and no kind in bare: there is nothing to equalize; use enabled=false"
            problems.append(Problem(text, "norms", self.norms))
        for kind in (*(("post_norm",) if self.norms else ()), *self.bare):
            quantizer = config.method.quantizer(kind)
            if self.strength == "search" and quantizer is not None and quantizer.granularity != "tensor":
                text = (
                    f"strength=search needs granularity tensor for kind {kind}, not {quantizer.granularity!r}; "
                    "fix the strength or the granularity"
                )
                problems.append(Problem(text, "strength", self.strength))
        return problems

    def check_order(self, before: Sequence[Step], behind: Sequence[Step]) -> list[Problem]:
        problems = super().check_order(before, behind)
        if any(kind != "weight" for step in before for kind in step.fits()):
            text = "activations are calibrated before it moves them; put equalize before calibrate"
            problems.insert(0, Problem(text))
        return problems

    def check_network(self, network: Network) -> list[Problem]:
        """A network that has nothing to equalize."""
        model = network.model
        if (self.norms and model.structure.links) or any(kind in self.bare for kind in model.structure.inputs.values()):
            return []
        text = (
            f"norms={self.norms}, bare={list(self.bare)}: this network has no such input of a layer; `vitq list sites` "
            "shows the kinds that it has: name some in bare, or set enabled=false"
        )
        return [Problem(text, "bare", self.bare, BARE)]

    @torch.no_grad()
    def run(self, work: Workspace) -> None:
        targets = list(_targets(self, work))
        work.progress.stage("equalize", len(targets))
        inputs: Stream = ImageStream(work)
        with work.model.switched_off():
            for segment in work.model.structure.segments:
                here = [target for target in targets if segment.holds(target.site.owner)]
                outputs = _observe(segment, here, inputs, work)
                _search(self, segment, here, inputs, work)
                for target in here:
                    work.progress.advance(1, f"{target.site.owner}: {self.rule} {_apply(target)}")
                # What was folded changes no output, so the observing pass was the advancing one.
                inputs = outputs


@dataclass
class EqualizedInput:
    """One input to equalize: the layers that read it, and the norm in front, if any."""

    layers: list[QuantLinear]
    norm: nn.Module | None
    shiftable: bool
    histogram: Histogram
    options: list[Candidate]

    @property
    def site(self) -> Site:
        return self.layers[0].input_site

    @property
    def quantized(self) -> bool:
        """Whether any quantizer could profit."""
        return any(s.quantizer is not None for layer in self.layers for s in (layer.input_site, layer.weight_site))

    def observe(self, site: Site, x: Tensor) -> None:
        self.histogram.update(x, Layout.of("channel", Axes(-1), tuple(x.shape)))


class Candidate:
    """One strength of one target: its ratio and shift, the quantizers that it would get, and its output's error."""

    def __init__(self, step: Equalize, target: EqualizedInput, channels: Distribution, strength: float):
        self.strength = strength
        self.shift = torch.zeros_like(channels.low)
        if step.shift and target.shiftable:
            self.shift = -(channels.low + channels.high) / 2
        columns = torch.stack([layer.weight.abs().amax(dim=0) for layer in target.layers]).amax(dim=0)
        ratio = BALANCES[step.rule](channels.low + self.shift, channels.high + self.shift, columns, strength)
        self.ratio = power_of_two(ratio) if step.power_of_two or target.norm is None else ratio
        self.error = 0.0

    def prepare(self, target: EqualizedInput, channels: Distribution) -> None:
        """Fit copies of the target's quantizers to what they would see."""
        seen = pooled(channels, self.ratio, self.shift)
        self._input = _fitted(target.site.quantizer, seen)
        self._weights = []
        for layer in target.layers:
            weight = layer.weight * self.ratio
            quantizer = copy.deepcopy(layer.weight_site.quantizer)
            if quantizer is not None:
                quantizer.fit_tensor(weight)
                weight = quantizer(weight)
            self._weights.append(weight)

    def measure(self, x: Tensor, outputs: list[Tensor]) -> None:
        """Add the squared output error on one batch. outputs: (x + shift)·Wᵀ of every layer, in full precision."""
        x = (x + self.shift) / self.ratio
        if self._input is not None:
            x = self._input(x)
        for weight, output in zip(self._weights, outputs, strict=True):
            self.error += float((x @ weight.T - output).square_().sum(dtype=torch.float64))


class _Errors:
    """Measures all options of one target on each batch that passes."""

    def __init__(self, target: EqualizedInput):
        self._target = target

    def observe(self, site: Site, x: Tensor) -> None:
        shifted = x + self._target.options[0].shift
        outputs = [shifted @ layer.weight.T for layer in self._target.layers]
        for option in self._target.options:
            option.measure(x, outputs)


def _targets(step: Equalize, work: Workspace) -> list[EqualizedInput]:
    """What the step equalizes, in the order of the model."""
    model = work.model.model
    inputs: list[EqualizedInput] = []
    read: set[str] = set()
    for link in work.model.structure.links:
        layers = [layer for name in link.consumers if isinstance(layer := model.get_submodule(name), QuantLinear)]
        read.update(link.consumers)
        norm = model.get_submodule(link.norm)
        if step.norms:
            shiftable = not link.padded and bias_of(norm) is not None
            inputs.append(EqualizedInput(layers, norm, shiftable, Histogram(), []))
    for name, layer in model.named_modules():
        if isinstance(layer, QuantLinear) and name not in read and layer.input_site.kind in step.bare:
            inputs.append(EqualizedInput([layer], None, False, Histogram(), []))
    if not inputs:
        text = (
            f"equalize: this model has no input to equalize for norms={step.norms}, bare={list(step.bare)}; "
            "`vitq list sites` shows the kinds that it has"
        )
        raise ValueError(Problem(text, "inputs", {"norms": step.norms, "bare": step.bare}))
    return inputs


def _observe(segment: Segment, targets: list[EqualizedInput], inputs: Stream, work: Workspace) -> Stream:
    """Run all calibration images through a segment while its targets watch their channels."""
    with ExitStack() as stack:
        for target in targets:
            stack.enter_context(watching([target.site], target))
        return through(segment.forward, inputs, work)


def _search(step: Equalize, segment: Segment, targets: list[EqualizedInput], inputs: Stream, work: Workspace) -> None:
    """Make every target's options and, where there are several, measure them. Without quantizers there is no option."""
    observers = []
    for target in targets:
        if step.strength == "search" and not target.quantized:
            continue
        channels = target.histogram.distribution()
        target.histogram = Histogram()
        strengths = step.candidates if step.strength == "search" else (float(step.strength),)
        target.options = [Candidate(step, target, channels, strength) for strength in strengths]
        if step.strength == "search":
            for option in target.options:
                option.prepare(target, channels)
            observers.append(watching([target.site], _Errors(target)))
    if not observers:
        return
    with ExitStack() as stack:
        for observer in observers:
            stack.enter_context(observer)
        for batch in inputs.batches():
            segment.forward(batch)


def _apply(target: EqualizedInput) -> str:
    """Fold the best option in; returns a note. A search where nothing is quantized has no options, changes nothing."""
    if not target.options:
        return "left in floating point"
    best = min(target.options, key=lambda option: option.error)
    if target.norm is not None:
        fold(target.norm, target.layers, best.ratio, best.shift)
    else:
        for layer in target.layers:
            layer.weight.mul_(best.ratio)
            factor = best.ratio.reciprocal()
            layer.balance = factor if layer.balance is None else layer.balance * factor
    for layer in target.layers:
        layer.equalized = best.strength
    target.options = []
    return f"{best.strength:g}"


def _fitted(quantizer: Quantizer | None, seen: Distribution) -> Quantizer | None:
    if quantizer is None:
        return None
    quantizer = copy.deepcopy(quantizer)
    quantizer.fit(seen, Layout("tensor", quantizer.axes, 1, ()))
    return quantizer
