"""A packed model as an integer graph: an ONNX file, or OpenVINO's."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from vitq.deploy.graph_shape import Size, graph_shape
from vitq.deploy.onnx.export_onnx import Shape, Written, save_onnx
from vitq.deploy.packed.packed import Packed
from vitq.quant.site_table import model_bytes


def export(packed: Packed, form: str, path: Path, int4: bool = True, size: Size | None = None) -> dict[str, Any]:
    """Write a packed model as `onnx` or `openvino` (.xml, and .bin beside it); returns what was written.

    int4: ONNX with weights of four bits and less in four bits. size: height and width of a detector's padded images;
    None for the config's. Gives sizes as `sizes` does, how many products are int8, and why the others are not; for ONNX
    how many weights are in four bits, and why the others are in eight; of a detector the shape of an image and the
    names of the outputs, `p2` to `p6`. Raises DeployError.
    """
    image, structure = graph_shape(packed, size), packed.model.structure
    path.parent.mkdir(parents=True, exist_ok=True)
    written = save_onnx(packed, path, int4, image) if form == "onnx" else _save_openvino(packed, path, image)
    weights = {"int4_weights": len(written.int4), "int8_weights": written.int8} if written.int4 else {}
    files = [path] if form == "onnx" else [path, path.with_suffix(".bin")]
    return {
        "format": form,
        "path": str(path),
        **sizes(_float_bytes(packed), sum(file.stat().st_size for file in files)),
        "int8_products": sum(product.reason is None for product in written.products),
        "float_products": {product.name: product.reason for product in written.products if product.reason is not None},
        **weights,
        **({"module": structure.exported, "image": image, "outputs": structure.outputs} if structure.exported else {}),
    }


def sizes(float_bytes: int, size: int) -> dict[str, Any]:
    """Bytes of a file and of the float32 and float16 model, and their ratios to the file."""
    return {
        "bytes": size,
        "float32_bytes": float_bytes,
        "float16_bytes": float_bytes // 2,
        "float32_ratio": round(float_bytes / size, 3),
        "float16_ratio": round(float_bytes / 2 / size, 3),
    }


def _float_bytes(packed: Packed) -> int:
    """Of the exported module in float32; quantizing changes no parameter's shape."""
    exported = packed.model.structure.exported
    return model_bytes(packed.model.model.get_submodule(exported)) if exported else packed.float_bytes


def _save_openvino(packed: Packed, path: Path, image: Shape) -> Written:
    from vitq.deploy.runtimes import openvino

    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        written = save_onnx(packed, onnx, image=image)
        openvino.save(openvino.convert(onnx), path)
    return written
