"""ONNX with QuantizeLinear/DequantizeLinear pairs."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vitq.deploy.onnx.int4 import store_int4
from vitq.deploy.onnx.integer_model import Product, integer_form
from vitq.deploy.onnx.qdq import OPSET
from vitq.deploy.packed.packed import Packed
from vitq.errors import DeployError
from vitq.store.atomic import write_bytes

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

INPUT = "images"
Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class Written:
    """What became of each product. int4: weights stored in 4 bits; int8: the others, and why (none where none was to be
    stored in 4 bits).
    """

    products: list[Product]
    int4: list[str] = field(default_factory=list)
    int8: dict[str, str] = field(default_factory=dict)


def save_onnx(packed: Packed, path: Path, int4: bool = False, image: Shape | None = None) -> Written:
    """Write the integer form of a model, dynamic in the batch.

    Input `images` (B, 3, S, S) float32, normalized; output `logits` (B, classes) float32. Of a detector: images padded
    to one size, and the levels `p2` to `p6` of the pyramid (B, channels, H / stride, W / stride). image: shape of one;
    None for the config's. int4: store weights whose codes fit four bits in four bits (int4.py), which needs opset 21.
    Checked with onnx's checker. Raises DeployError: onnx is not installed, or the checker refuses.
    """
    model, products = integer_form(packed.model)
    proto = _exported(model, image or packed.config.model.image_shape, packed.model.structure.outputs)
    narrow, wide = store_int4(proto) if int4 else ([], {})
    write_bytes(path, _checked(proto))
    return Written(products, narrow, wide)


def export(model: nn.Module, image: Shape, outputs: tuple[str, ...] = ("logits",)) -> bytes:
    """A model of images (B, *image) as ONNX bytes, checked. outputs: names of what it gives. Raises DeployError."""
    return _checked(_exported(model, image, outputs))


def _exported(model: nn.Module, image: Shape, outputs: tuple[str, ...] = ("logits",)) -> ModelProto:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401 - what torch's exporter needs
    except ImportError as error:
        raise DeployError(f"ONNX needs {error.name}; pip install 'vitq[deploy]'") from error
    # Two images: an export with one would fix the batch to one.
    images = torch.zeros(2, *image)
    batch = torch.export.Dim("batch", min=1, max=4096)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            model,
            (images,),
            input_names=[INPUT],
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    if program is None:
        raise DeployError("torch's exporter gave no ONNX program")
    proto = program.model_proto
    # Of each node the exporter notes the lines of Python that it comes from, with this machine's paths.
    for described in (*proto.graph.node, *proto.graph.value_info):
        described.ClearField("metadata_props")
    return proto


def _checked(proto: ModelProto) -> bytes:
    import onnx

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
