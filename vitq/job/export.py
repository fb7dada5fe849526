"""Export the model of a finished run in one of the formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitq.deploy.export import export as write_graph
from vitq.deploy.export import sizes
from vitq.deploy.graph_shape import Size
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
    size: Size | None = None,
) -> dict[str, Any]:
    """Write the run's model; returns what was written.

    form: a key of FORMATS. output: None for a file in the run's folder. compress: a packed checkpoint in its compressed
    form. int4: ONNX with weights of four bits and less in four bits. size: height and width of a detector's images in a
    graph. Gives path and sizes, of a packed checkpoint in both forms; for the others see `vitq.deploy.export`. Raises
    VitqError.
    """
    if compress and form != "packed":
        raise DeployError(f"--compress is of packed checkpoints; leave it out with --format {form}", "--compress")
    if not int4 and form != "onnx":
        raise DeployError(f"--int8-weights is of ONNX files; leave it out with --format {form}", "--int8-weights")
    if size is not None and form == "packed":
        raise DeployError("--size is of graphs; leave it out with --format packed", "--size", size)
    packed = packed_run(run_dir, progress)
    if form == "packed":
        return _packed(run_dir, packed, output, compress)
    path = output or run_dir.deploy_dir / f"model{FORMATS[form]}"
    return write_graph(packed, form, path, int4, size)


def _packed(run_dir: RunDir, packed: Packed, output: Path | None, compress: bool) -> dict[str, Any]:
    small = compressed(run_dir.model_path)
    path = output or (run_dir.deploy_dir / "model.safetensors" if compress else run_dir.model_path)
    if compress or output is not None:
        write_bytes(path, small if compress else run_dir.model_path.read_bytes())
    forms = {"plain": sizes(packed.float_bytes, packed.file_bytes), "compressed": sizes(packed.float_bytes, len(small))}
    return {"format": "packed", "path": str(path), **sizes(packed.float_bytes, path.stat().st_size), "forms": forms}
