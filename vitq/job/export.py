"""Export the model of a finished run in one of the formats."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from vitq.deploy.onnx.export_onnx import Written, save_onnx
from vitq.deploy.packed.container import compressed
from vitq.deploy.packed.packed import Packed
from vitq.errors import DeployError
from vitq.job.packed_run import packed_run
from vitq.progress import Progress
from vitq.store import RunDir
from vitq.store.atomic import write_bytes

# Format → suffix of its file.
FORMATS = {"packed": ".safetensors", "onnx": ".onnx", "openvino": ".xml"}


def export(
    run_dir: RunDir,
    form: str,
    output: Path | None,
    progress: Progress,
    compress: bool = False,
    int4: bool = True,
) -> dict[str, Any]:
    """Write the run's model; returns what was written.

    form: a key of FORMATS. output: None for a file in the run's folder. compress: a packed checkpoint in its compressed
    form. int4: ONNX with weights of four bits and less in four bits. Gives path, sizes in bytes and their ratios to
    float32 and float16, of a packed checkpoint in both forms; for the integer formats also how many products are int8,
    and why the others are not; for ONNX how many weights are in four bits, and why the others are in eight. Raises
    DeployError.
    """
    if compress and form != "packed":
        raise DeployError(f"--compress is of packed checkpoints; leave it out with --format {form}", "--compress")
    if not int4 and form != "onnx":
        raise DeployError(f"--int8-weights is of ONNX files; leave it out with --format {form}", "--int8-weights")
    packed = packed_run(run_dir, progress)
    if form == "packed":
        return _packed(run_dir, packed, output, compress)
    path = output or run_dir.deploy_dir / f"model{FORMATS[form]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    written = save_onnx(packed, path, int4) if form == "onnx" else write_openvino(packed, path)
    products, weights = written.products, {}
    if written.int4:
        weights = {"int4_weights": len(written.int4), "int8_weights": written.int8}
    files = [path] if form == "onnx" else [path, path.with_suffix(".bin")]
    return {
        "format": form,
        "path": str(path),
        **_sizes(packed, sum(file.stat().st_size for file in files)),
        "int8_products": sum(product.reason is None for product in products),
        "float_products": {product.name: product.reason for product in products if product.reason is not None},
        **weights,
    }


def _packed(run_dir: RunDir, packed: Packed, output: Path | None, compress: bool) -> dict[str, Any]:
    small = compressed(run_dir.model_path)
    path = output or (run_dir.deploy_dir / "model.safetensors" if compress else run_dir.model_path)
    if compress or output is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, small if compress else run_dir.model_path.read_bytes())
    return {
        "format": "packed",
        "path": str(path),
        **_sizes(packed, path.stat().st_size),
        "forms": {"plain": _sizes(packed, packed.file_bytes), "compressed": _sizes(packed, len(small))},
    }


def write_openvino(packed: Packed, path: Path) -> Written:
    """The integer form as an OpenVINO graph (`path` .xml, and .bin beside it)."""
    from vitq.deploy.runtimes import openvino

    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        written = save_onnx(packed, onnx)
        openvino.save(openvino.convert(onnx), path)
    return written


def _sizes(packed: Packed, size: int) -> dict[str, Any]:
    return {
        "bytes": size,
        "float32_bytes": packed.float_bytes,
        "float16_bytes": packed.float_bytes // 2,
        "float32_ratio": round(packed.float_bytes / size, 3),
        "float16_ratio": round(packed.float_bytes / 2 / size, 3),
    }
