"""What a step learns by gradients: which tensors, of a segment or of all of them, and how they are put back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitq.errors import Problem
from vitq.models.attention import AttentionTwin
from vitq.models.structure import Segment
from vitq.quant.layers import QuantConv2d, QuantLinear
from vitq.quant.learned import LearnedRange, RelativeScale
from vitq.quant.logarithmic import LogQuantizer
from vitq.quant.model import QuantizedModel
from vitq.quant.rounding import LearnedRounding
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer

# Parts of quantizers, by the group of sites that has them.
GROUPS = {"weights": {"rounding", "weight_scales"}, "activations": {"activation_scales", "zero_points"}}


class Learnt:
    """The parameters of one segment, or of the model, while a step learns them.

    segment: None for the whole model. relative: scales are learned as s₀·e^r, those of logarithms too, and with
    activation scales the coefficients of what predicts them for each image, where the model has that.
    weights, biases, scales, zero_points, roundings: leaf tensors with gradients, each with a learning rate of its own.
    Use as a context manager: on leaving, learned quantizers become ordinary ones again and nothing requires a gradient.
    """

    def __init__(
        self,
        model: QuantizedModel,
        segment: Segment | None,
        sites: Sequence[Site],
        parts: Sequence[str],
        relative: bool = False,
    ):
        self._sites, self._parts, self._relative = sites, set(parts), relative
        self._modules = [m for name, m in model.model.named_modules() if segment is None or segment.holds(name)]
        self._model = model
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.scales: list[Tensor] = []
        self.zero_points: list[Tensor] = []
        self.roundings: list[LearnedRounding] = []
        self._ranges: list[LearnedRange | RelativeScale] = []
        self._coefficients: list[Tensor] = []

    def __enter__(self) -> Learnt:
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        for module in self._modules:
            self._collect_weights(module)
        for site in self._sites:
            self._collect_quantizer(site)
        if self._relative and "activation_scales" in self._parts and self._model.predictor is not None:
            self._coefficients = [p.requires_grad_(True) for p in self._model.predictor.parameters() if p.numel()]
            self.scales += self._coefficients
        return self

    def __exit__(self, *_: object) -> None:
        for tensor in (*self.weights, *self.biases, *self._coefficients):
            tensor.requires_grad_(False)
        for site in self._sites:
            if isinstance(site.stand_in, LearnedRounding):
                # The weight takes its rounded values; the plain quantizer maps them onto themselves.
                layer = self._model.layer(site)
                layer.weight.data = site.stand_in.harden(layer.weight.data)
            site.stand_in = None
        for learned in self._ranges:
            learned.settle()

    def _collect_weights(self, module: nn.Module) -> None:
        if "weights" in self._parts and isinstance(module, AttentionTwin):
            for parameter in module.learnable():
                self.weights.append(parameter.requires_grad_(True))
        if not isinstance(module, QuantLinear | QuantConv2d):
            return
        if "weights" in self._parts:
            self.weights.append(module.weight.requires_grad_(True))
        if "bias" in self._parts and module.bias is not None:
            self.biases.append(module.bias.requires_grad_(True))

    def _collect_quantizer(self, site: Site) -> None:
        if self._relative and not (site.is_weight and "rounding" in self._parts):
            self._collect_relative(site)
            return
        uniform = site.quantizer
        if not isinstance(uniform, UniformQuantizer):
            return
        parts = {part for part in self._parts if learnable(part, site)}
        scale, zero = bool(parts & {"weight_scales", "activation_scales"}), "zero_points" in parts
        if scale or zero:
            self._ranges.append(LearnedRange(uniform, scale, zero, batched=not site.is_weight))
            site.stand_in = self._ranges[-1]
        if "rounding" in parts:
            # Where the scale is learned too, its gradient comes through the soft weight.
            self.roundings.append(LearnedRounding(uniform, self._model.layer(site).weight.detach()))
            site.stand_in = self.roundings[-1]
        if scale:
            self.scales.append(uniform.scale)
        if zero:
            self.zero_points.append(uniform.zero_point)

    def _collect_relative(self, site: Site) -> None:
        part = "weight_scales" if site.is_weight else "activation_scales"
        if part in self._parts and isinstance(site.quantizer, UniformQuantizer | LogQuantizer):
            learned = RelativeScale(site.quantizer)
            self._ranges.append(learned)
            self.scales.append(learned.r)
            site.stand_in = learned

    def tensors(self) -> list[Tensor]:
        """All that is learned."""
        return [*self.weights, *self.biases, *self.scales, *self.zero_points, *(r.logits for r in self.roundings)]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to learn here."""
        return not self.tensors()

    def optimizer(
        self,
        lr: float,
        lr_scales: float,
        lr_zero_points: float | None = None,
        lr_rounding: float = 0.0,
        lr_bias: float | None = None,
        factor: float = 1.0,
    ) -> torch.optim.Adam:
        """Adam without weight decay, a learning rate for each kind of parameter, times `factor`.

        lr_bias: None for that of weights.

        `constant` in a group: its rate follows no schedule.
        """
        groups: list[dict[str, Any]] = [
            {"params": self.weights, "lr": lr, "constant": False},
            {"params": self.biases, "lr": lr if lr_bias is None else lr_bias, "constant": False},
            {"params": self.scales, "lr": lr_scales, "constant": False},
            {"params": self.zero_points, "lr": lr_zero_points, "constant": False},
            {"params": [r.logits for r in self.roundings], "lr": lr_rounding, "constant": True},
        ]
        return torch.optim.Adam([g | {"lr": g["lr"] * factor} for g in groups if g["params"]])


def learnable(part: str, site: Site, relative: bool = False) -> bool:
    """Whether a site's quantizer has this part: uniform ones do, of `zero_points` those that are not symmetric.

    relative: scales are learned as s₀·e^r, which logarithms have too.
    """
    if relative and part == "activation_scales" and isinstance(site.quantizer, LogQuantizer):
        return not site.is_weight
    if not isinstance(site.quantizer, UniformQuantizer):
        return False
    if site.is_weight:
        return part in ("rounding", "weight_scales")
    return part == "activation_scales" or (part == "zero_points" and not site.quantizer.symmetric)


def contradictions(learn: Sequence[str], quantize: Sequence[str]) -> list[Problem]:
    """Parts to learn that exclude each other, and parts of groups that are not quantized."""
    problems = []
    if {"weights", "rounding"} <= set(learn):
        text = "learn names weights and rounding; learned rounding keeps the weights: choose one of them"
        problems.append(Problem(text, "learn", learn))
    for group, parts in GROUPS.items():
        asked = sorted(parts & set(learn))
        if asked and group not in quantize:
            problems.append(Problem(f"learn={asked} needs {group} in quantize", "quantize", quantize, [group]))
    return problems
