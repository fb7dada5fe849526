"""Sites of a fully quantized model: the input of softmax, with an integer exponential, and the input of LayerNorm."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vitq.quant.layout import Axes
from vitq.quant.quantizer import QUANTIZERS
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer

# I-BERT's second-order polynomial for exp on (−ln 2, 0]: 0.3585·(p + 1.353)² + 0.344 (arXiv 2101.01321, eq. 13).
_A, _B, _C = 0.3585, 1.353, 0.344
_LN2 = math.log(2.0)


@QUANTIZERS.register("int_scores")
class IntScores(UniformQuantizer):
    """Uniform codes of attention scores whose exponential is computed from integers (FQ-ViT's Log-Int-Softmax).

    With x = −z·ln 2 + p and p in (−ln 2, 0], exp(x) is the polynomial in p, shifted right by z bits (Lin et al., IJCAI
    2022, arXiv 2111.13824, section 3.3; the polynomial is I-BERT's). Integer arithmetic would compute the same from the
    codes; here it is computed in float32 from their values.
    """

    kinds = ("scores",)


def polynomial_exp(x: Tensor) -> Tensor:
    """exp(x) for x ≤ 0 as FQ-ViT's integers compute it, same shape and dtype; relative error below 0.4 %."""
    z = (x / -_LN2).floor()
    p = x + z * _LN2
    return torch.ldexp(_A * (p + _B).square() + _C, -z)


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
        powers = polynomial_exp(x - x.amax(dim=-1, keepdim=True))
        return powers / powers.sum(dim=-1, keepdim=True)


def attach(norm: nn.LayerNorm, name: str) -> None:
    """Put the site `<norm>.input`, kind `norm_input`, in front of a LayerNorm."""
    if hasattr(norm, "input_site"):
        return
    norm.input_site = Site(f"{name}.input", "norm_input", Axes(channel=-1, token=True), name)
    norm.register_forward_pre_hook(lambda module, args: (module.input_site(args[0]), *args[1:]))
