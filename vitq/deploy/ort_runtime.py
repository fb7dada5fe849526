"""ONNX Runtime on the CPU: the portable second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vitq.deploy.onnx_file import INPUT
from vitq.errors import DeployError


class Session:
    """An ONNX file, loaded. threads: of one operator; one operator runs at a time."""

    def __init__(self, onnx: Path, threads: int):
        try:
            import onnxruntime
        except ImportError as error:
            raise DeployError("ONNX Runtime is not installed; pip install 'vitq[deploy]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no base class but Exception
            raise DeployError(f"ONNX Runtime cannot load {onnx}: {error}") from error

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(B, classes) float32 logits of (B, 3, S, S) float32 images."""
        out: np.ndarray = self._session.run(None, {INPUT: images})[0]
        return out
