"""The integer form of a quantized model: the same scales and zero points, arranged for int8 products."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from vitq.deploy.onnx.attention import IntegerAttention
from vitq.deploy.onnx.logarithms import LogContext
from vitq.deploy.onnx.products import IntegerContext, IntegerConv, IntegerLinear, IntegerScores
from vitq.models.attention import AttentionTwin
from vitq.quant.integer import NotIntegerError
from vitq.quant.layers import QuantConv2d, QuantLinear, QuantMatmul
from vitq.quant.model import QuantizedModel
from vitq.quant.softmax import QuantSoftmax


@dataclass(frozen=True)
class Product:
    """One product of the model: the name of its layer or matmul, and why it stays in float (None: it is int8)."""

    name: str
    reason: str | None


@torch.no_grad()
def integer_form(model: QuantizedModel) -> tuple[nn.Module, list[Product]]:
    """A copy of the timm model whose products are int8 wherever that is exact, for export; and what became of each.

    model: on the CPU, its weights at their quantized values (`load_packed`). What is left in float keeps its simulated
    quantizers, so that it computes the same. Of a detector it is the backbone with its pyramid
    (`Structure.exported`), and nothing is said of other products.
    """
    inner, exported = copy.deepcopy(model).model, model.structure.exported
    products: list[Product] = []
    for name, make in _makers(inner, exported):
        module, reason = _attempt(make)
        products.append(Product(name, reason))
        if module is not None:
            inner.set_submodule(name, module)
    for name, module in list(inner.named_modules()):
        if not isinstance(module, AttentionTwin):
            continue
        if isinstance(module.context, QuantMatmul):
            # Log-type codes stay in float, but are computed another way.
            faster, _ = _attempt(partial(LogContext, module.context))
            module.context = faster or module.context
        if module.joint:
            inner.set_submodule(name, IntegerAttention(module))
    return inner.get_submodule(exported).eval(), products


@torch.no_grad()
def products_of(model: QuantizedModel) -> list[Product]:
    """What would become of each product; the model stays as it is."""
    return [Product(name, _attempt(make)[1]) for name, make in _makers(model.model, model.structure.exported)]


def _attempt(make: Callable[[], nn.Module]) -> tuple[nn.Module | None, str | None]:
    """(integer form, None), or (None, why there is none)."""
    try:
        return make(), None
    except NotIntegerError as reason:
        return None, str(reason)


def _makers(inner: nn.Module, exported: str) -> list[tuple[str, Callable[[], nn.Module]]]:
    """Name of every product of the exported module, and what makes its integer form or raises NotIntegerError."""
    fused = {
        f"{name}.qkv" for name, module in inner.named_modules() if isinstance(module, AttentionTwin) and module.joint
    }
    makers: list[tuple[str, Callable[[], nn.Module]]] = []
    for name, module in inner.named_modules():
        if exported and not name.startswith(f"{exported}."):
            continue
        if isinstance(module, QuantLinear):
            makers.append((name, partial(IntegerLinear, module, 3 if name in fused else 1)))
        elif isinstance(module, QuantConv2d):
            makers.append((name, partial(IntegerConv, module)))
        elif isinstance(module, AttentionTwin):
            scores, context, softmax = module.scores, module.context, module.softmax
            assert isinstance(scores, QuantMatmul)
            assert isinstance(context, QuantMatmul)
            assert isinstance(softmax, QuantSoftmax)
            bare = softmax.site is None or not softmax.site.on
            makers.append((f"{name}.scores", partial(IntegerScores, scores, bare)))
            makers.append((f"{name}.context", partial(IntegerContext, context)))
    return makers
