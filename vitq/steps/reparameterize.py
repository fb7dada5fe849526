"""Reparameterize (RepQ-ViT, I&S-ViT stage 2): channel-wise post-LayerNorm quantization turned into tensor-wise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitq.config import RunConfig
from vitq.errors import Problem, bad
from vitq.models.structure import Link, Structure
from vitq.quant.layout import Layout
from vitq.quant.quantizer import Quantizer
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.fold_norm import bias_of, fold
from vitq.steps.step import Network, Step, Workspace, register_step

# Zero points further off than so many ranges are left out of their mean.
_FAR = 16


@register_step("reparameterize")
class Reparameterize(Step):
    """Fold the differences between channels into LayerNorm and the next layer (RepQ-ViT eq. 6–9).

    With s, z the channel-wise scale and zero point and s̃ = mean(s), z̃ = round(mean(z)), r1 = s/s̃, r2 = z − z̃:

        γ̃ = γ / r1,  β̃ = (β + s·r2) / r1,  W̃ = W·diag(r1),  b̃ = b − W·(s·r2)

    so that the full-precision function is unchanged and the norm's output is quantized with one (s̃, z̃).

    zero_point: `integer`: z̃ is rounded, because codes are integers, and r2 takes up the difference: every channel keeps
        its own codes. Zero points more than 16 ranges off have no part in the mean: a nearly constant channel, where
        |β| ≫ |γ|, would shift all others so far that the weights' rounding error times the shift is what is left.
        `mean`: z̃ = mean(z) as it is, as the paper writes and public code does; what is clipped then ends half a step
        beyond the last whole step at either side, so that a site has 2^b + 1 levels. It exists to compare with public
        code's figures; such a site has no b-bit codes (`encode` raises).

    granularity: `token`: what is folded is the same, and each token position is to have a range of its own; a calibrate
        step behind this one fits them.

    A channel with a single value c (an affine weight of zero) has no scale of its own: it takes s̃ and is shifted onto
    the zero point, where it is represented exactly. Where zeros are padded between norm and layer (some Swin sizes), or
    where the norm has no bias, a shift cannot be folded: scales are evened out all the same (r2 = 0), and one range
    that covers all channels' ranges becomes the tensor's. Channels of a single value, and those with far zero points,
    keep their scale there: stretched, they would make the range.
    """

    zero_point: Literal["integer", "mean"] = "integer"
    granularity: Literal["tensor", "token"] = "tensor"
    changes_weights: ClassVar[bool] = True
    adapts: ClassVar[bool] = True
    detectors: ClassVar[bool] = True

    def check(self, config: RunConfig) -> list[Problem]:
        post_norm = config.method.quantizer("post_norm")
        if post_norm is None or post_norm.quantizer != "uniform":
            text = "reparameterize needs a uniform quantizer for kind post_norm"
            return [Problem(text, value=post_norm and post_norm.quantizer, valid=["uniform"])]
        if post_norm.granularity not in ("channel", "tensor"):
            text = (
                f"method.kinds.post_norm.granularity={post_norm.granularity}: reparameterize folds one scale for each "
                "channel; valid here: channel, or tensor, which leaves nothing to fold"
            )
            return [Problem(text, value=post_norm.granularity, valid=["channel", "tensor"])]
        if self.granularity == "token" and config.finds_objects:
            why = (
                "images of a detector have their own sizes, so that their positions have nothing in common; set tensor"
            )
            return [bad("granularity", self.granularity, why, ["tensor"])]
        return []

    def check_order(self, before: Sequence[Step], behind: Sequence[Step]) -> list[Problem]:
        problems = super().check_order(before, behind)
        if not any("post_norm" in step.fits() for step in before):
            text = "folds post_norm ranges, but no step before it calibrates these activations"
            problems.insert(0, Problem(text, value="post_norm"))
        if self.granularity == "token" and not any("post_norm" in step.fits() for step in behind):
            text = "granularity=token: no step behind it fits post_norm; add {do: calibrate, kinds: [post_norm]}"
            problems.append(Problem(text, "granularity", self.granularity, ["tensor"]))
        return problems

    def left_out(self, config: RunConfig, structure: Structure) -> list[str]:
        if structure.links:
            return []
        other = config.method.quantizer("other")
        become = (
            "stay in floating point" if other is None else f"get {other.quantizer}, granularity {other.granularity}"
        )
        return [
            "no norm stands in front of a layer, so that nothing is folded; inputs of its layers are of kind `other` "
            f"and {become}"
        ]

    def check_network(self, network: Network) -> list[Problem]:
        """Layers behind one norm that share its scale and have different bit-widths."""
        problems, model = [], network.model
        for link in model.structure.links:
            sites = [model.sites[f"{name}.input"].quantizer for name in link.consumers]
            bits = [quantizer.bits for quantizer in sites if quantizer is not None]
            channelwise = any(quantizer is not None and quantizer.granularity == "channel" for quantizer in sites)
            if channelwise and len(set(bits)) > 1:
                problems.append(_unequal(link, bits))
        return problems

    def run(self, work: Workspace) -> None:
        links = work.model.structure.links
        for link in work.progress.over(links, "reparameterize", len(links)):
            for site in reparameterize_link(work, link, rounded=self.zero_point == "integer"):
                if self.granularity == "token" and isinstance(site.quantizer, UniformQuantizer):
                    site.quantizer = site.quantizer.unfitted(UniformQuantizer, granularity="token")


@torch.no_grad()
def reparameterize_link(work: Workspace, link: Link, rounded: bool = True) -> list[Site]:
    """Fold one norm → consumers link; the sites that have one range now. Tensor-wise sites are left alone.

    rounded: whether z̃ is an integer.
    """
    norm = work.model.model.get_submodule(link.norm)
    consumers = [work.model.layer(name) for name in link.consumers]
    # One that reads the norm in floating point is folded like the others, and goes on reading it so.
    sites = [layer.input_site for layer in consumers if layer.input_site.quantizer is not None]
    if not sites or all(site.quantizer is not None and site.quantizer.granularity == "tensor" for site in sites):
        return []
    quantizers = [_channelwise(site.quantizer, link) for site in sites]
    first = quantizers[0]
    if len({quantizer.bits for quantizer in quantizers}) > 1:
        problem = _unequal(link, [quantizer.bits for quantizer in quantizers])
        raise ValueError(problem.reworded(f"reparameterize: {problem}"))
    scale, zero, constant = first.scale, first.zero_point, ~first.constants.isnan()
    varying = ~constant
    if not bool(varying.any()):
        text = f"reparameterize: every output channel of {link.norm} is constant; the checkpoint is broken"
        raise ValueError(Problem(text, "norm", link.norm))
    target = scale[varying].mean()
    usual = _usual(zero, varying, first.codes)
    if link.padded or bias_of(norm) is None:
        even = torch.where(usual, scale, target)
        low, high = -zero[usual].max() * target, (first.codes - 1 - zero[usual].min()) * target
        alone = varying & ~usual
        lows, highs = -zero[alone] * scale[alone], (first.codes - 1 - zero[alone]) * scale[alone]
        for values in (first.constants[constant], lows, highs):
            if len(values):
                low, high = torch.minimum(low, values.min()), torch.maximum(high, values.max())
        new_scale = (high - low) / (first.codes - 1)
        new_zero = torch.round(-low / new_scale)
        fold(norm, consumers, even / target, torch.zeros_like(even))
    else:
        even = torch.where(constant, target, scale)
        new_scale, new_zero = target, zero[usual].mean().round() if rounded else zero[varying].mean()
        # A constant channel of value c moves onto zero, which z̃ represents exactly.
        shift = torch.where(constant, -first.constants.nan_to_num(), scale * (zero - new_zero))
        fold(norm, consumers, even / target, shift)
    for site, old in zip(sites, quantizers, strict=True):
        site.quantizer = _tensorwise(old, new_scale, new_zero)
    return sites


def _usual(zero: Tensor, varying: Tensor, codes: int) -> Tensor:
    """Which of the `varying` channels have a zero point no more than 16 ranges off; all of them where none has. (C,)"""
    near = varying & ((zero - codes / 2).abs() <= _FAR * codes)
    return near if bool(near.any()) else varying


def _unequal(link: Link, bits: list[int]) -> Problem:
    text = (
        f"{', '.join(link.consumers)} read one norm and share its scale, but have {bits} bits; "
        "give them one bit-width in bits.sites"
    )
    return Problem(text, value=bits)


def _channelwise(quantizer: Quantizer | None, link: Link) -> UniformQuantizer:
    if isinstance(quantizer, UniformQuantizer) and quantizer.granularity == "channel" and quantizer.fitted:
        return quantizer
    text = (
        f"reparameterize: the inputs of {', '.join(link.consumers)} need fitted channel-wise uniform quantizers; "
        "calibrate them first"
    )
    raise ValueError(Problem(text, "inputs", link.consumers))


def _tensorwise(old: UniformQuantizer, scale: Tensor, zero: Tensor) -> UniformQuantizer:
    new = old.unfitted(UniformQuantizer, granularity="tensor")
    new.assign(Layout("tensor", old.axes, 1, ()), scale.reshape(1), zero.reshape(1))
    return new
