"""A rotated and centred network is deployed as it was before: nothing more in the file, nothing more to run."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.deploy.test_packed import logits, quantized, recipe
from tests.tiny import images
from vitq.deploy.onnx.export_onnx import save_onnx
from vitq.deploy.packed.packed import load_packed, save_packed
from vitq.deploy.runtimes.onnxruntime import OnnxSession
from vitq.machine import int8_products_are_exact
from vitq.methods.adalog import AdaLogQuantizer
from vitq.steps import Workspace

TURN = {"rotate": {"do": "rotate"}, "centre": {"do": "centre"}}


def test_turning_costs_nothing(workspace: Callable[..., Workspace], tmp_path: Path) -> None:
    plain = recipe("minmax")
    nodes, bytes_, products, given = [], [], [], []
    for name, steps in (("plain", {}), ("turned", TURN)):
        method = {**plain, "steps": {**steps, **plain["steps"]}}
        work, config = quantized(workspace, "vit", method, weight=4, activation=8)
        file = tmp_path / f"{name}.safetensors"
        size = save_packed(work.model, config, 1, file)
        bytes_.append(size - struct.unpack("<Q", file.read_bytes()[:8])[0])  # the header names the steps
        packed = load_packed(file)
        given.append(logits(packed.model, work))
        assert torch.equal(given[-1], logits(work.model, work))
        made = save_onnx(packed, tmp_path / f"{name}.onnx")
        products.append([(product.name, product.reason) for product in made.products])
        nodes.append(Counter(node.op_type for node in onnx.load(tmp_path / f"{name}.onnx").graph.node))
    assert not torch.equal(*given), "another network"
    assert products[0] == products[1]
    # Zero points differ: some are 0 and need no product, some take two bytes.
    assert not nodes[1] - nodes[0]
    assert bytes_[1] < 1.005 * bytes_[0]


@pytest.mark.skipif(not int8_products_are_exact(), reason="8-bit products saturate on this CPU (no VNNI)")
def test_rols_as_a_file_and_as_a_graph(workspace: Callable[..., Workspace], tmp_path: Path) -> None:
    """With centred keys and values, and with codes behind GELU that each site chose."""
    kinds = {"key": 6, "value": 6}
    work, config = quantized(workspace, "vit", recipe("rols"), weight=4, activation=4, kinds=kinds)
    save_packed(work.model, config, 1, tmp_path / "model.safetensors")
    packed = load_packed(tmp_path / "model.safetensors")
    expected = logits(work.model, work).numpy()
    assert np.array_equal(logits(packed.model, work).numpy(), expected)
    made = save_onnx(packed, tmp_path / "model.onnx")
    gap = np.abs(OnnxSession(tmp_path / "model.onnx", 1).infer(images(work).numpy()) - expected)
    assert gap.mean() < 0.02 * expected.std()
    logarithms = [site.owner for site in work.model.quantized() if isinstance(site.quantizer, AdaLogQuantizer)]
    floats = {product.name for product in made.products if product.reason is not None}
    assert floats == {"patch_embed.proj", *logarithms}
