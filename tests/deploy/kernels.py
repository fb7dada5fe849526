"""The products that a compiled OpenVINO graph executes, and the precision that each of them runs in."""

from __future__ import annotations

from typing import Any, NamedTuple

# Runtime layer types that multiply two tensors.
PRODUCTS = ("FullyConnected", "MatMul", "Convolution", "ScaledDotProductAttention", "MHA")
INTEGER = ("u8", "i8", "u4", "i4")


class Node(NamedTuple):
    """One node: its type, the precision it runs in (`u8`, `f32` …), its name."""

    kind: str
    precision: str
    name: str


def products(graph: Any) -> list[Node]:
    """The nodes that multiply two tensors; complete once the graph has run.

    A fused attention subgraph (`Subgraph`) counts where it holds a MatMul.
    """
    listed = []
    for op in graph.get_runtime_model().get_ops():
        info = op.get_rt_info()
        kind, origins, precision = (
            _text(info[key]) for key in ("layerType", "originalLayersNames", "runtimePrecision")
        )
        if kind in PRODUCTS or (kind == "Subgraph" and "matmul" in origins.lower()):
            listed.append(Node(kind, precision, op.get_friendly_name()))
    return listed


def float_products(graph: Any) -> list[Node]:
    """Products that do not run in integers."""
    return [node for node in products(graph) if node.precision not in INTEGER]


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)
