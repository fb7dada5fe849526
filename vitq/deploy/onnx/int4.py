"""Weights of 4 bits and less as INT4 or UINT4 in an ONNX file, half the bytes of int8; the arithmetic stays int8.

A weight is stored in four bits and cast to int8 where the graph starts, less its zero point where that is not 0
(UINT4), which runtimes do once, when they load it. A 4-bit tensor given to DequantizeLinear directly is multiplied in
float: ONNX Runtime 1.31 fuses no such pair into an int8 product.

Opset 21 is the first with these types. ONNX Runtime there turns signed activations into unsigned ones and forgets an
attribute that this opset has, so that they are unsigned here from the start: the same numbers, shifted by 128.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

INT4_OPSET = 21
_LEAST, _GREATEST, _CODES = -8, 7, 16


def store_int4(model: ModelProto) -> tuple[list[str], dict[str, str]]:
    """Narrow the weights of a graph of pairs (vitq.deploy.onnx.qdq) in place: (those in 4 bits, the others and why).

    Weights are the int8 initializers that are dequantized along an axis. A model without one that fits stays as it is.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    axes = {
        node.input[0]: axis
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors and (axis := _axis(node)) is not None
    }
    narrow, wide = [], {}
    for name, axis in axes.items():
        reason = _narrowed(graph, tensors[name], axis)
        if reason is None:
            narrow.append(name)
        else:
            wide[name] = reason
    if narrow:
        model.opset_import[0].version = INT4_OPSET
        _unsigned(model)
    return narrow, wide


def _narrowed(graph: GraphProto, tensor: TensorProto, axis: int) -> str | None:
    """Replace an int8 tensor by a 4-bit one and a cast; or why that is not possible."""
    from onnx import TensorProto, helper, numpy_helper

    codes = numpy_helper.to_array(tensor).astype(np.int64)
    others = tuple(i for i in range(codes.ndim) if i != axis)
    low, high = codes.min(axis=others), codes.max(axis=others)
    span = int((high - low).max()) + 1
    if span > _CODES:
        return f"its codes span {span} values, 4 bits hold {_CODES}"
    kind, zero = TensorProto.INT4, np.zeros_like(low)
    if low.min() < _LEAST or high.max() > _GREATEST:
        kind, zero = TensorProto.UINT4, np.clip(-low, 0, _CODES - 1)
    stored = codes + np.expand_dims(zero, others)
    if kind == TensorProto.UINT4 and (stored.min() < 0 or stored.max() >= _CODES):
        return "its codes lie on one side of zero, farther from it than 4 bits reach"
    name = tensor.name
    flat = np.pad(stored.reshape(-1), (0, stored.size % 2)) & 15
    # The first of two in the lower bits.
    raw = (flat[0::2] | flat[1::2] << 4).astype(np.uint8).tobytes()
    graph.initializer.remove(tensor)
    graph.initializer.append(helper.make_tensor(f"{name}_4bit", kind, stored.shape, raw, raw=True))
    nodes = [helper.make_node("Cast", [f"{name}_4bit"], [name], f"{name}_cast", to=TensorProto.INT8)]
    if kind == TensorProto.UINT4:
        # Taken off here and not by DequantizeLinear: OpenVINO's int8 kernels are slow at weights with zero points, and
        # ONNX Runtime subtracts no int8.
        graph.initializer.append(numpy_helper.from_array(np.expand_dims(zero, others).astype(np.int32), f"{name}_zero"))
        nodes = [
            helper.make_node("Cast", [f"{name}_4bit"], [f"{name}_wide"], f"{name}_wide", to=TensorProto.INT32),
            helper.make_node("Sub", [f"{name}_wide", f"{name}_zero"], [f"{name}_centred"], f"{name}_sub"),
            helper.make_node("Cast", [f"{name}_centred"], [name], f"{name}_cast", to=TensorProto.INT8),
        ]
    for node in reversed(nodes):
        graph.node.insert(0, node)
    return None


def _unsigned(model: ModelProto) -> None:
    """Activations that are quantized to int8, in uint8: codes and both zero points are 128 more."""
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    signed = {
        node.output[0]
        for node in graph.node
        if node.op_type == "QuantizeLinear" and tensors[node.input[2]].data_type == TensorProto.INT8
    }
    shifted: dict[str, str] = {}
    for node in graph.node:
        if node.output[0] in signed or (node.op_type == "DequantizeLinear" and node.input[0] in signed):
            zero = node.input[2]
            if zero not in shifted:
                shifted[zero] = f"{zero}_unsigned"
                codes = numpy_helper.to_array(tensors[zero]).astype(np.int64) + 128
                graph.initializer.append(numpy_helper.from_array(codes.astype(np.uint8), shifted[zero]))
            node.input[2] = shifted[zero]
    for value in [value for value in graph.value_info if value.name in signed]:
        graph.value_info.remove(value)


def _axis(node: NodeProto) -> int | None:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
