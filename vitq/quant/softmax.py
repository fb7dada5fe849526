"""Sites of a fully quantized model: the input of softmax, with an integer exponential, and the input of LayerNorm."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vitq.errors import Problem, unknown
from vitq.quant.distribution import Distribution
from vitq.quant.layout import Axes, Layout
from vitq.quant.quantizer import register_quantizer, straight_through
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer

# I-BERT's second-order polynomial for exp on (−ln 2, 0]: 0.3585·(p + 1.353)² + 0.344 (arXiv 2101.01321, eq. 13).
_A, _B, _C = 0.3585, 1.353, 0.344
# The same over 0.3585, multiplied out: p² + 2.7073·p + 2.7921 (FQ-ViT's public code, with three more digits).
_B1, _C1 = 0.96963238 / 0.35815147, 1 / 0.35815147
_LN2 = math.log(2.0)
ARITHMETIC = ("real", "integer")
# Right shifts after which a power counts as zero, and the bits below the point that make room for them.
_SHIFTS = 30


@register_quantizer("int_scores")
class IntScores(UniformQuantizer):
    """Uniform codes of attention scores whose exponential is a polynomial and a shift (FQ-ViT's Log-Int-Softmax).

    With x = −z·ln 2 + p and p in (−ln 2, 0], exp(x) is the polynomial in p, shifted right by z bits (Lin et al., IJCAI
    2022, arXiv 2111.13824, section 3.3; the polynomial is I-BERT's).

    Option arithmetic: `real`: of the quantized values, ln 2 and the polynomial's constants as they are. `integer`: of
    the codes, with these constants rounded down to whole multiples of the step, as public code has it (`integer_exp`).
    The coarser the step, the more that differs; from a step of 1.67 on the polynomial is zero everywhere, so that
    `fit` raises ValueError: 4-bit scores of most models need `real`, the paper's have 8 bits.
    """

    options: ClassVar[dict[str, Any]] = {**UniformQuantizer.options, "arithmetic": "real"}
    kinds = ("scores",)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.settings["arithmetic"] not in ARITHMETIC:
            wrong = self.settings["arithmetic"]
            raise ValueError(unknown("arithmetic of int_scores", wrong, ARITHMETIC, key="options.arithmetic"))

    def fit(self, distribution: Distribution, layout: Layout) -> None:
        super().fit(distribution, layout)
        step = float(self.scale.max())
        if self.settings["arithmetic"] == "integer" and step**2 > _C1:
            text = (
                f"int_scores: a step of {step:.3g} between scores is too coarse for arithmetic=integer, at most "
                f"{_C1**0.5:.3g} is valid; give scores more bits (bits.kinds.scores=8) or set arithmetic=real"
            )
            raise ValueError(Problem(text, "options.arithmetic", "integer", ["real"]))

    def powers(self, below: Tensor) -> Tensor:
        """exp of scores below their row's maximum, up to one factor for all. (B, heads, N, M), ≤ 0."""
        if self.settings["arithmetic"] == "real":
            return polynomial_exp(below)
        step = self.layout.view(self.scale)
        # The factor of the integers is that of exp(0): real and integer powers may stand for each other.
        whole = integer_exp(below, step) / integer_exp(torch.zeros_like(step), step)
        return straight_through(polynomial_exp(below), whole) if below.requires_grad else whole


def polynomial_exp(x: Tensor) -> Tensor:
    """exp(x) for x ≤ 0 by FQ-ViT's polynomial and shift, same shape and dtype; relative error below 0.4 %."""
    z = (x / -_LN2).floor()
    p = x + z * _LN2
    return torch.ldexp(_A * (p + _B).square() + _C, -z)


def integer_exp(x: Tensor, step: Tensor) -> Tensor:
    """exp(x)·2^30/(a·step²), whole numbers, of multiples x ≤ 0 of `step` as FQ-ViT's public code computes it.

    a·exp is r·(r + b) + c with r = k − ⌊−ln 2/step⌋·z, k = x/step; b and c are rounded down to whole numbers too.
    Below 2^24 float32 holds these numbers exactly, above it they have its precision. step broadcasts against x.
    """
    unit = (-_LN2 / step).floor()
    k = torch.maximum((x / step).round(), _SHIFTS * unit)
    z = (k / unit).floor()
    r = k - unit * z
    polynomial = r * (r + (_B1 / step).floor()) + (_C1 / step.square()).floor()
    return torch.ldexp(polynomial, _SHIFTS - z).floor().clamp(min=0)


class QuantSoftmax(nn.Module):
    """softmax over the last dimension; `attach` puts a site in front of it."""

    def __init__(self, name: str):
        super().__init__()
        self._name = name
        self.site: Site | None = None

    def attach(self) -> None:
        """Make the site `<attention>.softmax.input`, kind `scores`, (B, heads, N, M)."""
        if self.site is None:
            self.site = Site(f"{self._name}.softmax.input", "scores", Axes(channel=-1, head=1, token=True), self._name)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (B, heads, N, M) scores. mask: (windows, N, M), 0 or a large negative number, added behind the site."""
        site = self.site
        if site is not None:
            x = site(x)
        if mask is not None:
            windows = mask.shape[0]
            x = (x.view(-1, windows, *x.shape[1:]) + mask[:, None]).view(x.shape)
        if site is None or not site.on or not isinstance(site.quantizer, IntScores):
            return x.softmax(dim=-1)
        powers = site.quantizer.powers(x - x.amax(dim=-1, keepdim=True))
        return powers / powers.sum(dim=-1, keepdim=True)


def attach(norm: nn.LayerNorm, name: str) -> None:
    """Put the site `<norm>.input`, kind `norm_input`, in front of a LayerNorm."""
    if hasattr(norm, "input_site"):
        return
    norm.input_site = Site(f"{name}.input", "norm_input", Axes(channel=-1, token=True), name)
    norm.register_forward_pre_hook(lambda module, args: (module.input_site(args[0]), *args[1:]))
