"""ONNX Runtime: on the CPU the portable second; on CUDA its TensorRT provider, which reads the same QDQ pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vitq.deploy.onnx.export_onnx import INPUT
from vitq.errors import DeployError

# What runs a graph, first choice first; the others take what the first one cannot.
PROVIDERS = {
    "onnxruntime": ("CPUExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}


class OnnxSession:
    """An ONNX file, loaded. threads: of one operator on the CPU; one operator runs at a time.

    runtime: a key of PROVIDERS. Raises DeployError where it is not installed, or cannot use this machine.
    """

    def __init__(self, onnx: Path, threads: int, runtime: str = "onnxruntime"):
        try:
            import onnxruntime
        except ImportError as error:
            raise DeployError("ONNX Runtime is not installed; pip install 'vitq[deploy]'") from error
        wanted, available = PROVIDERS[runtime], onnxruntime.get_available_providers()
        if wanted[0] not in available:
            raise DeployError(
                f"runtime {runtime} needs {wanted[0]}, this onnxruntime has {', '.join(available)}; a machine with a "
                "GPU, TensorRT and the package onnxruntime-gpu has it",
                "--runtime",
                runtime,
                available,
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        providers: list[Any] = [
            # Without it TensorRT ignores the pairs and runs in float.
            (name, {"trt_int8_enable": True}) if name == "TensorrtExecutionProvider" else name
            for name in wanted
            if name in available
        ]
        try:
            self._session: Any = onnxruntime.InferenceSession(str(onnx), options, providers=providers)
        except Exception as error:  # its errors have no base class but Exception
            raise DeployError(f"ONNX Runtime cannot load {onnx}: {error}") from error
        # It falls back to the next provider without an error where libraries are missing.
        if self._session.get_providers()[0] != wanted[0]:
            raise DeployError(f"{wanted[0]} did not start (its libraries or the GPU are missing); see the log above")

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(B, classes) float32 logits of (B, 3, S, S) float32 images; of a detector the finest level."""
        return self.outputs(images)[0]

    def outputs(self, images: np.ndarray) -> list[np.ndarray]:
        """All outputs of (B, 3, H, W) float32 images."""
        outputs: list[np.ndarray] = self._session.run(None, {INPUT: images})
        return outputs
