"""The products of a tiny network's first block, in front of which output search stands."""

from __future__ import annotations

from typing import Any

from tests.tiny import part
from vitq.quant.layers import QuantLinear, QuantMatmul
from vitq.quant.site import Site
from vitq.steps import Workspace
from vitq.steps.layer_walk import NetworkWalk, quantized_walk

CALIBRATE = {"do": "calibrate", "sites": "activations", "input": "quantized"}


def method(probs: dict[str, Any], **others: Any) -> dict[str, Any]:
    uniform = {"quantizer": "uniform", "granularity": "tensor", "range": "minmax"}
    return {"kinds": {"default": uniform, "probs": {"range": "mse", **probs}, **others}, "steps": {}}


def in_block(work: Workspace, index: int = 1) -> NetworkWalk:
    """The quantized network in front of a block."""
    walk = quantized_walk(work)
    for segment in range(index):
        walk.enter(segment)
        walk.advance()
    walk.enter(index)
    return walk


def product_of(work: Workspace, kind: str) -> tuple[QuantLinear | QuantMatmul, Site]:
    name = {
        "probs": "attn.context", "value": "attn.context", "query": "attn.scores", "key": "attn.scores",
        "post_norm": "attn.qkv", "attn_out": "attn.proj", "post_gelu": "mlp.fc2",
    }[kind]  # fmt: skip
    product = part(work.model.model, f"blocks.0.{name}")
    sites = [s for s in work.model.sites.values() if s.name.startswith(f"blocks.0.{name}.") and s.kind == kind]
    return product, sites[0]
