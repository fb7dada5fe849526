"""ONNX with QuantizeLinear/DequantizeLinear pairs."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vitq.deploy.integer import Product, integer_form
from vitq.deploy.packed import Packed
from vitq.deploy.qdq import OPSET
from vitq.errors import DeployError
from vitq.store.atomic import write_bytes

if TYPE_CHECKING:
    from torch import nn

INPUT, OUTPUT = "images", "logits"


def save_onnx(packed: Packed, path: Path) -> list[Product]:
    """Write the integer form of a model, dynamic in the batch; returns what became of each product.

    Input `images` (B, 3, S, S) float32, normalized; output `logits` (B, classes) float32. Checked with onnx's checker.
    Raises DeployError: onnx is not installed, or the checker refuses.
    """
    model, products = integer_form(packed.model)
    write_bytes(path, export(model, packed.config.model.input_size))
    return products


def export(model: nn.Module, size: int) -> bytes:
    """A model of images (B, 3, size, size) as ONNX bytes, checked. Raises DeployError."""
    try:
        import onnx
        import onnxscript  # noqa: F401 - what torch's exporter needs
    except ImportError as error:
        raise DeployError(f"ONNX needs {error.name}; pip install 'vitq[deploy]'") from error
    # Two images: an export with one would fix the batch to one.
    images = torch.zeros(2, 3, size, size)
    batch = torch.export.Dim("batch", min=1, max=4096)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            model,
            (images,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    if program is None:
        raise DeployError("torch's exporter gave no ONNX program")
    proto = program.model_proto
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        raise DeployError(f"onnx's checker refuses the exported graph: {error}") from error
    data: bytes = proto.SerializeToString()
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
