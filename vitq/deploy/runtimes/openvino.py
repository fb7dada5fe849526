"""OpenVINO: integer graphs from ONNX, compiled for the CPU, and which precision each of their nodes runs in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitq.deploy.runtimes import signal_stack
from vitq.errors import DeployError

if TYPE_CHECKING:
    import openvino

# Runtime layer types that multiply two tensors.
PRODUCTS = ("FullyConnected", "MatMul", "Convolution", "ScaledDotProductAttention", "MHA")
INTEGER = ("u8", "i8", "u4", "i4")


@dataclass(frozen=True)
class Node:
    """One node of a compiled graph: its type, the precision it runs in (`u8`, `f32` …), and what it was made of."""

    kind: str
    precision: str
    name: str
    origins: tuple[str, ...]


def convert(onnx: Path) -> openvino.Model:
    """An ONNX file as an OpenVINO graph. Raises DeployError where OpenVINO is missing or does not read it."""
    ov = _openvino()
    try:
        return ov.convert_model(str(onnx))
    except RuntimeError as error:
        raise DeployError(f"OpenVINO cannot convert {onnx}: {error}") from error


def save(model: openvino.Model, path: Path) -> None:
    """Write `path` (.xml) and the weights beside it (.bin), uncompressed."""
    _openvino().save_model(model, str(path), compress_to_fp16=False)


def compiled(model: openvino.Model, precision: str, threads: int) -> openvino.CompiledModel:
    """The graph compiled for the CPU. precision: `f32` or `bf16` (of what is not integer)."""
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    with signal_stack.kept():
        return _openvino().Core().compile_model(model, "CPU", settings)


class Request:
    """One inference request; its tensors are reused."""

    def __init__(self, graph: openvino.CompiledModel):
        self._request: Any = graph.create_infer_request()

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(B, classes) float32 logits of (B, 3, S, S) float32 images; valid until the next call."""
        out: np.ndarray = self._request.infer([images])[0]
        return out


def nodes(graph: openvino.CompiledModel) -> list[Node]:
    """What the compiled graph executes, constants left out; complete once it has run."""
    listed = []
    for op in graph.get_runtime_model().get_ops():
        info = op.get_rt_info()
        kind = _text(info["layerType"])
        if kind in ("Const", "Constant"):
            continue
        origins = tuple(part for part in _text(info["originalLayersNames"]).split(",") if part)
        listed.append(Node(kind, _text(info["runtimePrecision"]), op.get_friendly_name(), origins))
    return listed


def products(graph: openvino.CompiledModel) -> list[Node]:
    """The nodes that multiply two tensors. A fused attention subgraph (`Subgraph`) counts where it holds a MatMul."""
    return [node for node in nodes(graph) if node.kind in PRODUCTS or (node.kind == "Subgraph" and _multiplies(node))]


def float_products(graph: openvino.CompiledModel) -> list[Node]:
    """Products that do not run in integers."""
    return [node for node in products(graph) if node.precision not in INTEGER]


def _multiplies(node: Node) -> bool:
    return any("matmul" in origin.lower() for origin in node.origins)


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise DeployError("OpenVINO is not installed; pip install 'vitq[deploy]'") from error
    return openvino
