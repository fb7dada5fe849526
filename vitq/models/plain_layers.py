"""Convolutions and linear layers in the one form that the engine works on: torch's own, with the weights that they
multiply by."""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.layers import Conv2dSame, StdConv2d, StdConv2dSame
from timm.layers.padding import pad_same
from timm.models import levit, tiny_vit
from torch import Tensor, nn
from torch.nn import functional as F

Size = tuple[int, int]
# A layer and the batch norm behind it.
_NORMED = (levit.ConvNorm, levit.LinearNorm, tiny_vit.ConvNorm)


class SamePad(nn.Module):
    """Zeros around a map (B, C, H, W), so many that a convolution's output has ⌈H/stride⌉ × ⌈W/stride⌉ pixels."""

    def __init__(self, kernel: Size, stride: Size, dilation: Size):
        super().__init__()
        self.kernel, self.stride, self.dilation = kernel, stride, dilation

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = pad_same(x, list(self.kernel), list(self.stride), list(self.dilation))
        return out


@torch.no_grad()
def plain_layers(model: nn.Module) -> None:
    """Put plain layers in the place of convolutions that standardize their weights, or pad by the size of the image,
    and of layers with a batch norm behind them (LeViT, TinyViT).

    The first get their standardized weights, the second become (padding, convolution), the third are folded.
    """
    for name, layer in list(model.named_modules()):
        if isinstance(layer, StdConv2d | StdConv2dSame | Conv2dSame):
            model.set_submodule(name, _plain_convolution(layer))
        elif isinstance(layer, _NORMED):
            _fold(model, name, layer)


def _plain_convolution(layer: nn.Conv2d) -> nn.Module:
    kernel, stride, dilation = (_pair(size) for size in (layer.kernel_size, layer.stride, layer.dilation))
    padding = cast(Size, layer.padding)
    plain = nn.Conv2d(
        layer.in_channels, layer.out_channels, kernel, stride, padding, dilation, layer.groups, bias=False,
        device="meta",
    )  # fmt: skip
    standard = not isinstance(layer, Conv2dSame)
    plain.weight = nn.Parameter(_standardized(layer) if standard else layer.weight)
    plain.bias = layer.bias
    padded = getattr(layer, "same_pad", not standard)
    return nn.Sequential(SamePad(kernel, stride, dilation), plain) if padded else plain


def _standardized(layer: nn.Conv2d) -> Tensor:
    """Each output channel's weights less their mean, by their standard deviation."""
    rows = layer.weight.reshape(1, layer.out_channels, -1)
    eps = float(layer.eps)  # type: ignore[arg-type]
    return F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=eps).reshape_as(layer.weight)


def _fold(model: nn.Module, name: str, pair: Any) -> None:
    layer, norm = getattr(pair, "linear", None) or pair.conv, pair.bn
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    layer.weight = nn.Parameter(layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
    model.set_submodule(name, layer)


def _pair(size: tuple[int, ...]) -> Size:
    return size[0], size[1]
