"""Three points in one space of weights: full precision, rounded to the nearest codes, and as the recipe left them.

Recipes fold scales and shifts across norms, so that the full-precision weights and the quantized model's are numbers in
different coordinates, between which no line means anything. Here the full-precision weights are brought into the
quantized model's coordinates, where its norms are; that is exact, and checked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitq.errors import VitqError
from vitq.probes.directions import MovedParameters, Point, inner, minus
from vitq.probes.probed_model import Subject, switched
from vitq.quant.layers import QuantLinear

# Least share of ‖rounded − full precision‖ that the recipe must have moved the weights by for a plane to be drawn.
_MOVED = 1e-3
# Largest difference of logits, in their standard deviations, that is rounding and not another function.
_SAME = 1e-2


@dataclass(frozen=True)
class AnchorModels:
    """full: weights of full precision in the quantized model's coordinates; rounded: those at the run's own weight
    quantizers; final: the run's weights at these. Parameters by name, the same in all three."""

    full: Point
    rounded: Point
    final: Point

    @property
    def learned(self) -> bool:
        """Whether the recipe changed the weights beyond folding and rounding: then the three span a plane."""
        moved, rounding = minus(self.final, self.rounded), minus(self.rounded, self.full)
        return inner(moved, moved) > _MOVED**2 * inner(rounding, rounding)


@torch.no_grad()
def anchors(subject: Subject) -> AnchorModels:
    """The anchors of a run. Raises VitqError where full precision cannot be brought into its coordinates."""
    layers = subject.model.layers()
    full = _unfolded(subject)
    rounded, final = dict(full), {}
    for name, parameter in subject.model.model.named_parameters():
        if name in full:
            final[name] = parameter.detach().clone()
    for name, layer in layers.items():
        site, key = layer.weight_site, f"{name}.weight"
        if site.on and site.quantizer is not None:
            rounded[key] = site.quantizer(full[key])
            final[key] = site.quantizer(final[key])
    _check(subject, full)
    return AnchorModels(full, rounded, final)


def _unfolded(subject: Subject) -> Point:
    """The full-precision parameters as they would stand in the quantized model, had nothing been learned."""
    reference, model = subject.reference.model, subject.model.model
    theirs, layers = dict(reference.named_parameters()), subject.model.layers()
    full: Point = {}
    for name, layer in layers.items():
        full[f"{name}.weight"] = theirs[f"{name}.weight"].detach().clone()
        if layer.bias is not None:
            known = theirs.get(f"{name}.bias")
            full[f"{name}.bias"] = torch.zeros_like(layer.bias) if known is None else known.detach().clone()
    for link in subject.model.structure.links:
        old, new = reference.get_submodule(link.norm), model.get_submodule(link.norm)
        for name in link.consumers:
            _follow(full, name, _affine(old), _affine(new))
    for name, layer in layers.items():
        if isinstance(layer, QuantLinear) and layer.balance is not None:
            full[f"{name}.weight"] /= layer.balance
    for name, parameter in model.named_parameters():
        # What else can be learned: Swin's tables of position biases.
        if name in theirs and name not in full and not torch.equal(theirs[name], parameter) and parameter.ndim > 1:
            full[name] = theirs[name].detach().clone()
    return full


def _affine(norm: torch.nn.Module) -> tuple[Tensor, Tensor]:
    weight = norm.get_parameter("weight").detach()
    bias = getattr(norm, "bias", None)
    return weight, torch.zeros_like(weight) if bias is None else bias.detach()


def _follow(full: Point, name: str, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> None:
    """The norm before a layer went from γ, β to γ̃, β̃: W̃ = W·diag(γ/γ̃), b̃ = b + W·(β − β̃·γ/γ̃).

    A channel without a weight in the norm is a constant: its column stays, and the shift alone moves the bias.
    """
    if torch.equal(old[0], new[0]) and torch.equal(old[1], new[1]):
        return
    weight = full[f"{name}.weight"]
    ratio = torch.where(new[0] == 0, torch.ones_like(new[0]), old[0] / new[0])
    shift = old[1] - new[1] * ratio
    if f"{name}.bias" in full:
        full[f"{name}.bias"] = full[f"{name}.bias"] + weight @ shift
    elif bool(shift.abs().max() > 1e-6 * old[1].abs().max()):
        raise VitqError(f"layer {name} has no bias that could take the shift of its norm")
    full[f"{name}.weight"] = weight * ratio


def _check(subject: Subject, full: Point) -> None:
    """The point must compute what the full-precision model computes."""
    batch = subject.batches[0][0][:8]
    expected = batch
    for segment in subject.reference.segments:
        expected = segment.forward(expected)
    with (
        MovedParameters(subject.model.model, full, ()),
        switched(subject.model, weights=False, activations=False),
    ):
        actual = subject.model(batch)
    off = float((actual - expected).abs().max() / expected.std())
    if not off <= _SAME:
        raise VitqError(
            f"the full-precision weights cannot be brought into the run's coordinates: logits differ by {off:.2g} of "
            "their standard deviation; leave the view `path` out: probe.options.landscape.views=[random,block]",
            "probe.options.landscape.views",
            off,
            ["random", "block"],
        )
