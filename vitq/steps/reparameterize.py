"""Reparameterize (RepQ-ViT, I&S-ViT stage 2): channel-wise post-LayerNorm quantization turned into tensor-wise."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from vitq.config import RunConfig
from vitq.config.base import RULES
from vitq.models.anatomy import Link
from vitq.quant.layers import QuantLinear
from vitq.quant.layout import Layout
from vitq.quant.quantizer import Quantizer
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.fold import bias_of, fold
from vitq.steps.step import STEPS, Step, Workspace


@STEPS.register("reparameterize")
@dataclass(frozen=True, config=RULES)
class Reparameterize(Step):
    """Fold the differences between channels into LayerNorm and the next layer (RepQ-ViT eq. 6–9).

    With s, z the channel-wise scale and zero point and s̃ = mean(s), z̃ = round(mean(z)), r1 = s/s̃, r2 = z − z̃:

        γ̃ = γ / r1,  β̃ = (β + s·r2) / r1,  W̃ = W·diag(r1),  b̃ = b − W·(s·r2)

    so that the full-precision function is unchanged and the norm's output is quantized with one (s̃, z̃).

    zero_point: `integer`: z̃ is rounded, because codes are integers, and r2 takes up the difference: every channel keeps
        its own codes. `mean`: z̃ = mean(z) as it is, as the paper writes and public code does; what is clipped then ends
        half a step beyond the last whole step at either side, so that a site has 2^b + 1 levels. It exists to compare
        with public code's figures; such a site has no b-bit codes (`encode` raises).

    A channel with a single value c (an affine weight of zero) has no scale of its own: it takes s̃ and is shifted onto
    the zero point, where it is represented exactly. Where zeros are padded between norm and layer (some Swin sizes), or
    where the norm has no bias, a shift cannot be folded: scales are evened out all the same (r2 = 0), and one range
    that covers all channels' ranges, single values included, becomes the tensor's.
    """

    zero_point: Literal["integer", "mean"] = "integer"
    changes_weights: ClassVar[bool] = True

    def check(self, config: RunConfig) -> list[str]:
        post_norm = config.method.quantizer("post_norm")
        if post_norm is None or post_norm.quantizer != "uniform":
            return ["reparameterize needs a uniform quantizer for kind post_norm"]
        if post_norm.granularity not in ("channel", "tensor"):
            return [
                f"method.kinds.post_norm.granularity={post_norm.granularity}: reparameterize folds one scale for each "
                "channel; valid here: channel, or tensor, which leaves nothing to fold"
            ]
        return []

    def run(self, work: Workspace) -> None:
        links = work.model.anatomy.links
        for link in work.progress.over(links, "reparameterize", len(links)):
            reparameterize_link(work, link, rounded=self.zero_point == "integer")


@torch.no_grad()
def reparameterize_link(work: Workspace, link: Link, rounded: bool = True) -> None:
    """Fold one norm → consumers link. Tensor-wise sites are left alone: there is nothing to fold.

    rounded: whether z̃ is an integer.
    """
    norm = work.model.model.get_submodule(link.norm)
    consumers = [_linear(work, name) for name in link.consumers]
    site = consumers[0].input_site
    if site.quantizer is None or site.quantizer.granularity == "tensor":
        return
    quantizers = [_channelwise(layer.input_site.quantizer, link) for layer in consumers]
    first = quantizers[0]
    if len({quantizer.bits for quantizer in quantizers}) > 1:
        raise ValueError(
            f"reparameterize: {', '.join(link.consumers)} read one norm and share its scale, but have "
            f"{[q.bits for q in quantizers]} bits; give them one bit-width in bits.sites"
        )
    scale, zero, constant = first.scale, first.zero_point, ~first.constants.isnan()
    varying = ~constant
    if not bool(varying.any()):
        raise ValueError(f"reparameterize: every output channel of {link.norm} is constant; the checkpoint is broken")
    target = scale[varying].mean()
    even = torch.where(constant, target, scale)
    ratio = even / target
    if link.padded or bias_of(norm) is None:
        low, high = -zero[varying].max() * target, (first.codes - 1 - zero[varying].min()) * target
        if bool(constant.any()):
            values = first.constants[constant]
            low, high = torch.minimum(low, values.min()), torch.maximum(high, values.max())
        new_scale = (high - low) / (first.codes - 1)
        new_zero = torch.round(-low / new_scale)
        fold(norm, consumers, ratio, torch.zeros_like(even))
    else:
        new_scale, new_zero = target, zero[varying].mean()
        if rounded:
            new_zero = new_zero.round()
        # A constant channel of value c moves onto zero, which z̃ represents exactly.
        shift = torch.where(constant, -first.constants.nan_to_num(), scale * (zero - new_zero))
        fold(norm, consumers, ratio, shift)
    for layer, old in zip(consumers, quantizers, strict=True):
        layer.input_site.quantizer = _tensorwise(old, new_scale, new_zero)


def _channelwise(quantizer: Quantizer | None, link: Link) -> UniformQuantizer:
    if isinstance(quantizer, UniformQuantizer) and quantizer.granularity == "channel" and quantizer.fitted:
        return quantizer
    raise ValueError(
        f"reparameterize: the inputs of {', '.join(link.consumers)} need fitted channel-wise uniform quantizers; "
        "calibrate them first"
    )


def _tensorwise(old: UniformQuantizer, scale: Tensor, zero: Tensor) -> UniformQuantizer:
    new = UniformQuantizer(old.bits, "tensor", old.axes, range=old.range, symmetric=old.symmetric, **old.settings)
    new.assign(Layout("tensor", old.axes, 1, ()), scale.reshape(1), zero.reshape(1))
    return new


def _linear(work: Workspace, name: str) -> QuantLinear:
    layer = work.model.model.get_submodule(name)
    if not isinstance(layer, QuantLinear):
        raise TypeError(f"reparameterize: {name} is a {type(layer).__name__}, not a linear layer")
    return layer
