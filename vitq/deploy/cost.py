"""What one image costs a quantized model, from shapes and bit-widths alone."""

from __future__ import annotations

import torch
from torch import Tensor

from vitq.deploy.onnx.integer_model import products_of
from vitq.quant.model import QuantizedModel
from vitq.quant.site_table import shapes_of
from vitq.steps.allocation.budget import multiplications, site_width
from vitq.store.result import Cost


@torch.no_grad()
def cost(model: QuantizedModel, image: Tensor) -> Cost:
    """Cost of one image. image: (1, 3, S, S), any content; it passes the model once."""
    shapes = shapes_of(model, image)
    integer = {product.name for product in products_of(model) if product.reason is None}
    macs = bops = inside = 0.0
    for left, right, count in multiplications(model, shapes):
        macs += count
        bops += count * site_width(left) * site_width(right)
        inside += count if left.owner in integer else 0.0
    weights, activations = (
        sum(shapes[s.name].numel() * site_width(s) for s in model.sites.values() if s.is_weight == wanted)
        for wanted in (True, False)
    )
    return Cost(
        macs=int(macs),
        bops=int(bops),
        weight_bytes=-(-weights // 8),
        activation_bytes=-(-activations // 8),
        integer_share=100 * inside / macs,
    )
