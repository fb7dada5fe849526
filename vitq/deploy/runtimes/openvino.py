"""OpenVINO: integer graphs from ONNX, compiled for the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitq.deploy.runtimes import signal_stack
from vitq.errors import DeployError

if TYPE_CHECKING:
    import openvino


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
        """(B, classes) float32 logits of (B, 3, S, S) float32 images, of a detector the finest level; valid until the
        next call."""
        return self.outputs(images)[0]

    def outputs(self, images: np.ndarray) -> list[np.ndarray]:
        """All outputs of (B, 3, H, W) float32 images; valid until the next call."""
        return list(self._request.infer([images]).values())


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise DeployError("OpenVINO is not installed; pip install 'vitq[deploy]'") from error
    return openvino
