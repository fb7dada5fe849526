"""The integer form of a quantized model: the same scales and zero points, arranged for int8 products."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from vitq.deploy.attention import IntegerAttention, IntegerWindowAttention
from vitq.deploy.operands import NotIntegerError
from vitq.deploy.products import IntegerContext, IntegerConv, IntegerLinear, IntegerScores
from vitq.quant.attention import QuantAttention, QuantWindowAttention
from vitq.quant.layers import QuantConv2d, QuantLinear
from vitq.quant.model import QuantizedModel

_ATTENTIONS = (QuantAttention, QuantWindowAttention)


@dataclass(frozen=True)
class Product:
    """One product of the model: the name of its layer or matmul, and why it stays in float (None: it is int8)."""

    name: str
    reason: str | None


@torch.no_grad()
def integer_form(model: QuantizedModel) -> tuple[nn.Module, list[Product]]:
    """A copy of the timm model whose products are int8 wherever that is exact, for export; and what became of each.

    model: on the CPU, its weights at their quantized values (`load_packed`). What is left in float keeps its simulated
    quantizers, so that it computes the same.
    """
    inner = copy.deepcopy(model).model
    products: list[Product] = []

    def put(name: str, make: Callable[[], nn.Module]) -> None:
        try:
            module = make()
        except NotIntegerError as reason:
            products.append(Product(name, str(reason)))
            return
        inner.set_submodule(name, module)
        products.append(Product(name, None))

    fused = {f"{name}.qkv" for name, module in inner.named_modules() if isinstance(module, _ATTENTIONS)}
    for name, module in list(inner.named_modules()):
        if isinstance(module, QuantLinear):
            put(name, partial(IntegerLinear, module, 3 if name in fused else 1))
        elif isinstance(module, QuantConv2d):
            put(name, partial(IntegerConv, module))
        elif isinstance(module, _ATTENTIONS):
            bare = module.softmax.site is None or not module.softmax.site.on
            put(f"{name}.scores", partial(IntegerScores, module.scores, bare))
            put(f"{name}.context", partial(IntegerContext, module.context))
    for name, module in list(inner.named_modules()):
        if isinstance(module, QuantAttention):
            inner.set_submodule(name, IntegerAttention(module))
        elif isinstance(module, QuantWindowAttention):
            inner.set_submodule(name, IntegerWindowAttention(module))
    return inner.eval(), products
