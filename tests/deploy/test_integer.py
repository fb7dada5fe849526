"""The integer model computes what the simulated one does, in two runtimes that know nothing of vitq."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tests.deploy.kernels import float_products, products
from tests.deploy.test_packed import logits, quantized, recipe
from tests.errors import refuses
from tests.tiny import images, tiny
from vitq.config.search_path import ConfigPath
from vitq.deploy.onnx.export_onnx import save_onnx
from vitq.deploy.onnx.integer_model import Product, integer_form
from vitq.deploy.packed.packed import Packed, load_packed, save_packed
from vitq.deploy.runtimes import openvino
from vitq.deploy.runtimes.onnxruntime import OnnxSession
from vitq.errors import DeployError
from vitq.machine import int8_products_are_exact
from vitq.planning import base_method
from vitq.quant.site_table import model_bytes
from vitq.steps import Workspace

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's exporter warns of itself
Make = Callable[..., Workspace]
W8A8: dict[str, Any] = {"weight": 8, "activation": 8}


def method(name: str) -> dict[str, Any]:
    """A shipped recipe, its base below it."""
    raw = (
        recipe(name)
        if name != "integer"
        else base_method.with_base({"method": {**_yaml(name), "base": "minmax"}}, ConfigPath.of())["method"]
    )
    return {**raw, "name": "test"}


def _yaml(name: str) -> dict[str, Any]:
    import yaml

    raw: dict[str, Any] = yaml.safe_load(ConfigPath.of().files("method")[name].read_text())
    return raw


def packed_model(workspace: Make, folder: Path, family: str, name: str, **bits: Any) -> tuple[Packed, Workspace]:
    work, config = quantized(workspace, family, method(name), **bits)
    path = folder / "model.safetensors"
    save_packed(work.model, config, model_bytes(tiny(family)), path)
    return load_packed(path), work


@dataclass
class Exported:
    """One model in all its forms."""

    work: Workspace
    packed: Packed
    products: list[Product]
    onnx: Path

    @property
    def x(self) -> np.ndarray:
        return images(self.work).numpy()

    @property
    def floats(self) -> set[str]:
        return {product.name for product in self.products if product.reason is not None}


CASES = {
    # Asymmetric everything: zero points in biases, row sums for weights, query and value.
    "minmax": ("vit", "minmax", W8A8 | {"image": 8}),
    # Twin regions for post-GELU and post-softmax, symmetric for the rest.
    "mptq_vit": ("vit", "mptq_vit", W8A8),
    # Fewer bits than the integers have, log-type probabilities in float, windows.
    "swin": ("swin", "repq_vit", {"weight": 4, "activation": 4}),
    "integer": ("vit", "integer", W8A8),
}


# Exporting takes seconds, so each is made once.
MADE: dict[str, Exported] = {}


# Each on one worker of pytest-xdist, where it is kept.
@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.xdist_group(f"exported {name}")) for name in CASES])
def exported(request: pytest.FixtureRequest, workspace: Make, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    if request.param not in MADE:
        family, name, bits = CASES[request.param]
        folder = tmp_path_factory.mktemp(request.param)
        packed, work = packed_model(workspace, folder, family, name, **bits)
        path = folder / "model.onnx"
        MADE[request.param] = Exported(work, packed, save_onnx(packed, path).products, path)
    return MADE[request.param]


@pytest.mark.slow
@pytest.mark.skipif(not int8_products_are_exact(), reason="8-bit products saturate on this CPU (no VNNI)")
def test_runtimes_agree_with_the_simulated_model(exported: Exported, request: pytest.FixtureRequest) -> None:
    expected = logits(exported.packed.model, exported.work).numpy()
    # One float32 sum that is rounded otherwise may move a value to the next code; that is all that may differ.
    spread = expected.std()
    graph = openvino.compiled(openvino.convert(exported.onnx), "f32", 1)
    request_ = openvino.Request(graph)
    for name, infer in (("onnxruntime", OnnxSession(exported.onnx, 1).infer), ("openvino", request_.infer)):
        for batch in (1, 16):  # dynamic
            gap = np.abs(infer(exported.x[:batch]) - expected[:batch])
            assert gap.mean() < 0.02 * spread, (name, batch, gap.mean() / spread)
            assert gap.max() < 0.3 * spread, (name, batch, gap.max() / spread)
    case = request.node.callspec.params["exported"]
    attention = {f"blocks.{i}.attn.{part}" for i in range(2) for part in ("scores", "context")}
    names = {product.name for product in exported.products}
    if case == "swin":
        assert exported.floats == {"patch_embed.proj", *(n for n in names if n.endswith("attn.context"))}
    else:
        assert attention <= names
        # Asymmetric codes of a convolution leave int8.
        assert exported.floats == {"patch_embed.proj"}
    # What the compiled graph says itself: no product runs in float but those that are named.
    floats = float_products(graph)
    assert len(floats) == len(exported.floats), floats
    assert all(node.kind == "Convolution" or case == "swin" for node in floats)
    assert len(products(graph)) >= len(exported.products) - len(exported.floats)


def _providers() -> list[str]:
    import onnxruntime

    found: list[str] = onnxruntime.get_available_providers()
    return found


@pytest.mark.skipif("TensorrtExecutionProvider" not in _providers(), reason="needs a GPU, TensorRT, onnxruntime-gpu")
def test_tensorrt_agrees_with_the_simulated_model(workspace: Make, tmp_path: Path) -> None:
    packed, work = packed_model(workspace, tmp_path, "vit", "integer", **W8A8)
    save_onnx(packed, tmp_path / "model.onnx")
    found = OnnxSession(tmp_path / "model.onnx", 1, "tensorrt").infer(images(work).numpy())
    expected = logits(packed.model, work).numpy()
    assert np.abs(found - expected).mean() < 0.05 * expected.std()


@pytest.mark.skipif("TensorrtExecutionProvider" in _providers(), reason="TensorRT is there")
def test_tensorrt_is_missing_and_says_so(tmp_path: Path) -> None:
    with refuses(DeployError, key="--runtime", value="tensorrt", valid=_providers()):
        OnnxSession(tmp_path / "model.onnx", 1, "tensorrt")


def test_scales_and_zero_points_are_the_run_s_own(exported: Exported) -> None:
    """Every scale in the ONNX file is one of the quantizers', bit for bit, and each weight's integers are its codes."""
    graph = onnx.load(exported.onnx).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    own = {1.0}
    for quantizer in (site.quantizer for site in exported.packed.model.quantized()):
        assert quantizer is not None
        scale = quantizer.get_buffer("scale")
        own |= set(scale.tolist())
        if "exponent" in quantizer.parameter_names:
            own |= set((scale * torch.exp2(quantizer.get_buffer("exponent"))).tolist())
    used = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert used
    for node in used:
        assert set(constants[node.input[1]].reshape(-1).tolist()) <= own, node.name
    integers = [t for t in constants.values() if t.dtype == np.int8 and t.ndim == 2]
    layers = [p.name for p in exported.products if p.reason is None and ".scores" not in p.name]
    for name in layers:
        site = exported.packed.model.sites.get(f"{name}.weight")
        if site is None or site.quantizer is None or site.axes.head is not None:
            continue
        layer = exported.packed.model.layer(site)
        zero = site.quantizer.get_buffer("zero_point").to(torch.int64).view(-1, *(1,) * (layer.weight.ndim - 1))
        codes = site.quantizer.encode(layer.weight.detach())
        centred = codes - zero
        wanted = centred if int(centred.min()) >= -128 and int(centred.max()) < 128 else codes - 128
        for part in wanted.chunk(3 if name.endswith("qkv") else 1) if layer.weight.ndim == 2 else ():
            assert any(t.shape == part.T.shape and np.array_equal(t, part.T.numpy()) for t in integers), name


def test_what_int8_cannot_hold_stays_in_float_and_says_why(workspace: Make, tmp_path: Path) -> None:
    raw = method("minmax")
    raw["kinds"] |= {
        "post_norm": {"quantizer": "uniform", "granularity": "channel"},
        "probs": {"quantizer": "log2", "granularity": "tensor"},
        "query": {"quantizer": "uniform", "granularity": "head"},
    }
    work, config = quantized(workspace, "vit", raw, sites={"blocks.1.mlp.fc2.input": "fp"}, **W8A8)
    save_packed(work.model, config, 1, tmp_path / "model.safetensors")
    _, products = integer_form(load_packed(tmp_path / "model.safetensors").model)
    reasons = {product.name: product.reason or "" for product in products}
    assert "granularity channel" in reasons["blocks.0.attn.qkv"]
    assert "granularity head" in reasons["blocks.0.attn.scores"]
    assert "the codes of Log2 are not evenly spaced" in reasons["blocks.0.attn.context"]
    assert "blocks.1.mlp.fc2.input is not quantized" in reasons["blocks.1.mlp.fc2"]
    assert reasons["blocks.0.mlp.fc2"] == ""


SIGNALLED = """
import gc, os, signal, threading, time
import numpy as np
import openvino, openvino.opset13 as ops
from vitq.deploy.runtimes import openvino as openvino_runtime

image = ops.parameter([8, 64], openvino.Type.f32)
weight = ops.constant(np.ones((64, 64), np.float32))
graph = [openvino_runtime.compiled(openvino.Model([ops.matmul(image, weight, False, False)], [image]), "bf16", 1)]
openvino_runtime.Request(graph[0]).infer(np.ones((8, 64), np.float32))

def drop():  # what OpenVINO holds is let go in another thread than the one that compiled
    graph.clear()
    gc.collect()

thread = threading.Thread(target=drop)
thread.start()
thread.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
except KeyboardInterrupt:
    print("alive")
"""


def test_a_signal_after_a_graph_is_gone_does_not_crash() -> None:
    command = [sys.executable, "-X", "faulthandler", "-c", SIGNALLED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr
