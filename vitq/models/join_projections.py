"""Query, key and value in the one form that the engine works on: a layer `qkv` with a bias of its own."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

_LAYERS = ("q_proj", "k_proj", "v_proj")
_BIASES = ("q_bias", "k_bias", "v_bias")


@torch.no_grad()
def join_projections(model: nn.Module) -> None:
    """Make every attention's three layers over one input one layer, and its biases beside `qkv` the bias of `qkv`.

    timm's own forward (EVA, BEiT, Swin V2) takes both forms, and computes the same in both. Layers of different shapes
    (grouped-query attention) stay.
    """
    for module in model.modules():
        layers = [getattr(module, name, None) for name in _LAYERS]
        if getattr(module, "qkv", module) is None and all(isinstance(layer, nn.Linear) for layer in layers):
            _join_layers(module, cast(list[nn.Linear], layers))
        layer = getattr(module, "qkv", None)
        if isinstance(layer, nn.Linear) and getattr(module, "q_bias", None) is not None:
            layer.bias = nn.Parameter(torch.cat([getattr(module, name) for name in _BIASES]))
            for name in _BIASES:
                setattr(module, name, None)


def _join_layers(module: nn.Module, layers: list[nn.Linear]) -> None:
    if len({layer.weight.shape for layer in layers}) > 1:
        return
    rows, columns = layers[0].weight.shape
    joined = nn.Linear(columns, 3 * rows, bias=False, device="meta")
    joined.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]))
    if any(layer.bias is not None for layer in layers):
        joined.bias = nn.Parameter(torch.cat([_bias_of(layer) for layer in layers]))
    module.qkv = joined
    for name in _LAYERS:
        setattr(module, name, None)


def _bias_of(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
