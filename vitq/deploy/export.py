"""Export the model of a finished run in one of the formats."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from vitq.deploy.integer import Product
from vitq.deploy.packed import Packed
from vitq.deploy.source import packed_run
from vitq.progress import Progress
from vitq.store import RunDir
from vitq.store.atomic import write_bytes

# Format → suffix of its file.
FORMATS = {"packed": ".safetensors", "onnx": ".onnx", "openvino": ".xml"}


def export(run_dir: RunDir, form: str, output: Path | None, progress: Progress) -> dict[str, Any]:
    """Write the run's model; returns what was written.

    form: a key of FORMATS. output: None for a file in the run's folder. Gives path, sizes in bytes and their ratios to
    float32 and float16; for the integer formats also how many products are int8, and why the others are not. Raises
    DeployError.
    """
    packed = packed_run(run_dir, progress)
    path = output or (run_dir.model_path if form == "packed" else run_dir.deploy_dir / f"model{FORMATS[form]}")
    if form == "packed":
        if output is not None:
            write_bytes(path, run_dir.model_path.read_bytes())
        return {"format": form, "path": str(path), **_sizes(packed, path.stat().st_size)}
    path.parent.mkdir(parents=True, exist_ok=True)
    products = write_onnx(packed, path) if form == "onnx" else write_openvino(packed, path)
    files = [path] if form == "onnx" else [path, path.with_suffix(".bin")]
    return {
        "format": form,
        "path": str(path),
        **_sizes(packed, sum(file.stat().st_size for file in files)),
        "int8_products": sum(product.reason is None for product in products),
        "float_products": {product.name: product.reason for product in products if product.reason is not None},
    }


def write_onnx(packed: Packed, path: Path) -> list[Product]:
    """The integer form as ONNX; what became of each product."""
    from vitq.deploy.onnx_file import save_onnx

    return save_onnx(packed, path)


def write_openvino(packed: Packed, path: Path) -> list[Product]:
    """The integer form as an OpenVINO graph (`path` .xml, and .bin beside it)."""
    from vitq.deploy import openvino_runtime
    from vitq.deploy.onnx_file import save_onnx

    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        products = save_onnx(packed, onnx)
        openvino_runtime.save(openvino_runtime.convert(onnx), path)
    return products


def _sizes(packed: Packed, size: int) -> dict[str, Any]:
    return {
        "bytes": size,
        "float32_bytes": packed.float_bytes,
        "float16_bytes": packed.float_bytes // 2,
        "float32_ratio": round(packed.float_bytes / size, 3),
        "float16_ratio": round(packed.float_bytes / 2 / size, 3),
    }
