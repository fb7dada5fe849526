"""Weights in four bits: the same numbers as in eight, in half the bytes, in two runtimes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.deploy.kernels import products
from tests.deploy.test_integer import packed_model
from tests.tiny import images
from vitq.deploy.onnx.export_onnx import save_onnx
from vitq.deploy.onnx.int4 import store_int4
from vitq.deploy.runtimes import openvino
from vitq.deploy.runtimes.onnxruntime import OnnxSession
from vitq.steps import Workspace

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's exporter warns of itself
Make = Callable[..., Workspace]


def layer(codes: np.ndarray, axis: int, shift: int) -> onnx.ModelProto:
    """y = x̂·ŵ: x in int8 with a zero point, w = codes·scale along an axis."""
    rows, columns = codes.shape
    scale = np.linspace(0.01, 0.02, codes.shape[axis], dtype=np.float32)
    constants = {
        "s": np.float32(0.05),
        "z": np.int8(shift),
        "w": codes,
        "ws": scale,
        "wz": np.zeros(len(scale), np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["v"], axis=axis),
        helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, columns])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def computed(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """By onnx's own reference."""
    outputs: Any = ReferenceEvaluator(model).run(None, {"x": x})
    out: np.ndarray = outputs[0]
    return out


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    axis=st.integers(0, 1),
    low=st.integers(-15, 3),
    span=st.integers(1, 17),
    shift=st.integers(-128, 127),
)
def test_a_layer_computes_the_same(
    seed: int, shape: tuple[int, int], axis: int, low: int, span: int, shift: int
) -> None:
    generator = np.random.default_rng(seed)
    codes = generator.integers(low, low + span, shape).astype(np.int8)
    model = layer(codes, axis, shift)
    x = generator.normal(0, 4, (4, shape[0])).astype(np.float32)
    before = computed(model, x)
    narrow, wide = store_int4(model)
    onnx.checker.check_model(model, full_check=True)
    assert np.array_equal(computed(model, x), before)
    signed = bool(codes.min() >= -8 and codes.max() <= 7)
    fits = signed or all(
        any(channel.min() + zero >= 0 and channel.max() + zero <= 15 for zero in range(16))
        for channel in codes.swapaxes(0, axis)
    )
    assert (narrow, list(wide)) == ((["w"], []) if fits else ([], ["w"]))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    if fits:
        assert stored["w_4bit"].data_type in (TensorProto.INT4, TensorProto.UINT4)
        assert len(stored["w_4bit"].raw_data) == -(-codes.size // 2)
        assert "w" not in stored
    else:
        assert np.array_equal(numpy_helper.to_array(stored["w"]), codes)


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    # Symmetric: INT4. Three bits in one layer, eight in another, which stays in int8 and is named.
    "integer": ("vit", "integer", {"weight": 4, "activation": 8, "sites": {"*.fc1.weight": 3, "head.weight": 8}}),
    # Asymmetric: UINT4 with a zero point for each channel.
    "repq_vit": ("vit", "repq_vit", {"weight": 4, "activation": 4}),
}


@pytest.mark.slow
@pytest.mark.usefixtures("exports_once")
@pytest.mark.parametrize("case", list(CASES))
def test_runtimes_compute_what_they_do_with_int8(workspace: Make, tmp_path: Path, case: str) -> None:
    family, name, bits = CASES[case]
    packed, work = packed_model(workspace, tmp_path, family, name, **bits)
    x = images(work).numpy()
    found = {}
    kernels = {}
    for int4 in (False, True):
        path = tmp_path / f"{int4}.onnx"
        written = save_onnx(packed, path, int4)
        graph = openvino.compiled(openvino.convert(path), "f32", 1)
        found[int4] = {
            "onnxruntime": OnnxSession(path, 1).infer(x),
            "openvino": openvino.Request(graph).infer(x).copy(),
        }
        kernels[int4] = sorted((node.kind, node.precision) for node in products(graph))
    for runtime, expected in found[False].items():
        assert np.array_equal(found[True][runtime], expected), runtime
    assert kernels[True] == kernels[False]
    model = onnx.load(path)
    types = [tensor.data_type for tensor in model.graph.initializer]
    wanted = TensorProto.INT4 if case == "integer" else TensorProto.UINT4
    assert types.count(wanted) == len(written.int4) > 8
    eight = {"head.codes.codes": "its codes span"} if case == "integer" else {}
    assert len(written.int8) == len(eight)
    assert all("head" in key and "codes span" in why for key, why in written.int8.items())
    # Nothing of the machine that exported it.
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


def test_a_model_of_wide_weights_stays_as_it_is() -> None:
    codes = np.random.default_rng(0).integers(-128, 128, (8, 8)).astype(np.int8)
    model = layer(codes, 1, 0)
    before = model.SerializeToString()
    assert store_int4(model) == ([], {"w": f"its codes span {_span(codes)} values, 4 bits hold 16"})
    assert model.SerializeToString() == before


def _span(codes: np.ndarray) -> int:
    return int((codes.max(axis=0).astype(int) - codes.min(axis=0)).max()) + 1
