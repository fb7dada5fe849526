"""A packed model as an integer graph: an ONNX file, or OpenVINO's."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from vitq.deploy.onnx.export_onnx import Written, save_onnx
from vitq.deploy.packed.packed import Packed
from vitq.errors import DeployError


def export(packed: Packed, form: str, path: Path, int4: bool = True) -> dict[str, Any]:
    """Write a packed model as `onnx` or `openvino` (.xml, and .bin beside it); returns what was written.

    int4: ONNX with weights of four bits and less in four bits. Gives sizes as `sizes` does, how many products are
    int8, and why the others are not; for ONNX how many weights are in four bits, and why the others are in eight.
    Raises DeployError.
    """
    if packed.model.structure.body:
        text = f"--format {form}: detectors have no integer graph yet; they are packed (--format packed)"
        raise DeployError(text, "--format", form, ["packed"])
    path.parent.mkdir(parents=True, exist_ok=True)
    written = save_onnx(packed, path, int4) if form == "onnx" else _save_openvino(packed, path)
    weights = {"int4_weights": len(written.int4), "int8_weights": written.int8} if written.int4 else {}
    files = [path] if form == "onnx" else [path, path.with_suffix(".bin")]
    return {
        "format": form,
        "path": str(path),
        **sizes(packed, sum(file.stat().st_size for file in files)),
        "int8_products": sum(product.reason is None for product in written.products),
        "float_products": {product.name: product.reason for product in written.products if product.reason is not None},
        **weights,
    }


def sizes(packed: Packed, size: int) -> dict[str, Any]:
    """Bytes of a file and of the float32 and float16 model, and their ratios to the file."""
    return {
        "bytes": size,
        "float32_bytes": packed.float_bytes,
        "float16_bytes": packed.float_bytes // 2,
        "float32_ratio": round(packed.float_bytes / size, 3),
        "float16_ratio": round(packed.float_bytes / 2 / size, 3),
    }


def _save_openvino(packed: Packed, path: Path) -> Written:
    from vitq.deploy.runtimes import openvino

    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        written = save_onnx(packed, onnx)
        openvino.save(openvino.convert(onnx), path)
    return written
