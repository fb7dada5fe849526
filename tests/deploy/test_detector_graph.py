"""A detector's backbone with its pyramid in integers: the numbers of the simulated one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.errors import command_refuses, refuses
from tests.job.test_detectors import KWARGS, Detectors
from tests.models.test_families import _dequantized, _quantized
from vitq import cli
from vitq.deploy.graph_shape import graph_shape
from vitq.deploy.onnx import products as integer_products
from vitq.deploy.onnx import qdq
from vitq.deploy.onnx.integer_model import integer_form
from vitq.deploy.packed.packed import Packed, load_packed
from vitq.errors import DeployError
from vitq.machine import int8_products_are_exact
from vitq.models.detection.detector import Detector

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's exporter warns of itself
RECIPE: dict[str, Any] = {
    "name": "symmetric",
    "kinds": {
        "weight": {"quantizer": "uniform", "granularity": "channel", "symmetric": True},
        "default": {"quantizer": "uniform", "granularity": "tensor"},
    },
    "steps": {"ranges": {"do": "calibrate"}},
}
LEVELS = ["p2", "p3", "p4", "p5", "p6"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Detectors, str]:
    """A finished run that kept its model, all of it at W8A8."""
    detectors = Detectors(tmp_path_factory.mktemp("detectors"))
    # Five blocks, of which one has shifted windows: exporting takes a second for each.
    kwargs = {**KWARGS, "depths": [2, 1, 1, 1]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Detector(8, (2, 1, 1, 1), (1, 2, 2, 4), 7, 16, 32, 10, 8).eval()
    save_file(network.state_dict(), detectors.checkpoint)
    plain = detectors.config().to_dict()
    bits = {"weight": 8, "activation": 8, "image": 8}
    run_dir = detectors.plan(RECIPE, bits=bits, keep_model=True, model=plain["model"] | {"kwargs": kwargs})
    detectors.execute(run_dir)
    return detectors, run_dir.signature


def test_the_integer_pyramid_is_the_simulated_one(run: tuple[Detectors, str], monkeypatch: pytest.MonkeyPatch) -> None:
    detectors, signature = run
    packed = load_packed(detectors.store.run(signature).model_path)
    integer, products = integer_form(packed.model)
    # All layers of Swin and of the pyramid, and nothing of the heads.
    layers = {name for name in packed.model.structure.inputs if name.startswith("backbone.")}
    attentions = packed.model.structure.attentions
    matmuls = {f"{name}.{part}" for name in attentions for part in ("scores", "context")}
    assert {product.name for product in products} == layers | matmuls
    assert [product for product in products if product.reason is not None] == []
    monkeypatch.setattr(qdq, "quantize", _quantized)
    for module in (qdq, integer_products):
        monkeypatch.setattr(module, "dequantize", _dequantized)
    pixels = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))  # windows do not divide it
    with torch.no_grad():
        found, expected = integer(pixels), packed.model.model.get_submodule("backbone")(pixels)
    for level, (one, other) in enumerate(zip(found, expected, strict=True)):
        gap = (one - other).abs()
        # One float32 sum that is rounded otherwise may move a value to the next code.
        assert gap.mean() < 0.02 * other.std(), level
        assert gap.max() < 0.3 * other.std(), level


class Torch:
    """A session that runs in torch."""

    def __init__(self, module: nn.Module):
        self._module = module

    def infer(self, images: np.ndarray) -> np.ndarray:
        return self.outputs(images)[0]

    def outputs(self, images: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [level.numpy() for level in self._module(torch.from_numpy(images))]


def test_bench_compares_each_form_with_the_simulated_pyramid(
    run: tuple[Detectors, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sessions(packed: Packed, float_model: nn.Module, *_: Any) -> dict[str, Torch]:
        own = {"float32": float_model, "integer": packed.model.model}
        return {name: Torch(module.get_submodule("backbone")) for name, module in own.items()}

    monkeypatch.setattr("vitq.deploy.bench_pyramid.sessions", sessions)
    detectors, signature = run
    words = ["bench", signature, "--runs-dir", str(detectors.store.root), "--size", "160x192", "--repeats", "1"]
    assert cli.main([*words, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["size"], done["images"]) == ([160, 192], 2)
    assert done["forms"]["integer"]["error"] == dict.fromkeys(LEVELS, 0)
    assert all(0 < done["forms"]["float32"]["error"][level] < 1 for level in LEVELS)
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("float32", "integer"))] == ["float32", "integer"]
    command_refuses([*words[:4], "--size", "64x64"], key="--size", value="64x64")


@pytest.mark.slow
@pytest.mark.usefixtures("exports_once")
def test_bench_and_export_of_a_run(
    run: tuple[Detectors, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detectors, signature = run
    words = [signature, "--runs-dir", str(detectors.store.root), "--size", "128x160", "--json"]
    assert cli.main(["bench", *words, "--threads", "1", "--repeats", "2"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["size"], done["images"]) == ([128, 160], 2)
    errors = {name: row["error"] for name, row in done["forms"].items()}
    assert list(errors) == ["float32", "bf16", "integer", "integer_bf16"]
    assert all(list(error) == LEVELS for error in errors.values())
    if int8_products_are_exact():
        # Closer to the simulated pyramid than full precision is. Of weights that nothing trained no more can be asked:
        # the simulated one itself moves by up to a third of that when its first norm's output is off by 1e-6.
        assert all(errors["integer"][level] < 0.6 * errors["float32"][level] for level in LEVELS)
    speed = {name: row["batch1"]["images_per_second"] for name, row in done["forms"].items()}
    assert done["speedup"] == pytest.approx(speed["integer"] / speed["float32"])

    path = tmp_path / "pyramid.onnx"
    assert cli.main(["export", *words, "--format", "onnx", "--output", str(path)]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["module"], done["image"], done["outputs"]) == ("backbone", [3, 128, 160], LEVELS)
    assert done["float_products"] == {}
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim][1:]
        for value in onnx.load(path).graph.output
    }
    assert shapes == {f"p{k}": [16, -(-128 // 2**k), -(-160 // 2**k)] for k in range(2, 7)}


def test_sizes_that_images_are_not_padded_to_are_refused(run: tuple[Detectors, str]) -> None:
    detectors, signature = run
    packed = load_packed(detectors.store.run(signature).model_path)
    assert graph_shape(packed, None) == (3, 96, 128)
    assert graph_shape(packed, (64, 96)) == (3, 64, 96)
    with refuses(DeployError, key="--size", value="100x128"):
        graph_shape(packed, (100, 128))
    words = ["export", signature, "--runs-dir", str(detectors.store.root), "--size", "64x96"]
    command_refuses(words, key="--size", value=(64, 96))
    packed.model.structure.outputs = ()  # as YOLOS says
    with refuses(DeployError, key="model.name", value="mask_rcnn"):
        graph_shape(packed, None)
