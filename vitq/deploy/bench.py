"""How fast and how accurate the integer model is, beside the float model in the same runtime and process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import torch

from vitq import data
from vitq.config import RunConfig
from vitq.deploy.onnx.export_onnx import Shape, export, save_onnx
from vitq.deploy.packed.packed import Packed
from vitq.errors import DeployError, unknown
from vitq.models.load import load_model
from vitq.progress import Progress
from vitq.store.atomic import write_bytes

RUNTIMES = ("openvino", "onnxruntime", "tensorrt")
# (B, 3, S, S) float32 → (B, classes) float32.
Infer = Callable[[np.ndarray], np.ndarray]


class Runner(Protocol):
    """A model that is ready to run."""

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(B, classes) of (B, 3, H, W), float32; of a detector the finest level of the pyramid."""

    def outputs(self, images: np.ndarray) -> list[np.ndarray]:
        """All outputs, which may be overwritten by the next call."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one batch: median and quartiles over all repetitions."""

    batch: int
    milliseconds: float
    low: float
    high: float

    @property
    def images_per_second(self) -> float:
        return self.batch / self.milliseconds * 1e3

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "milliseconds": self.milliseconds,
            "quartiles": [self.low, self.high],
            "images_per_second": self.images_per_second,
        }

    @staticmethod
    def of(batch: int, seconds: list[float]) -> Timing:
        low, high = np.quantile(seconds, [0.25, 0.75]) * 1e3
        return Timing(batch, median(seconds) * 1e3, float(low), float(high))


def forms(packed: Packed, float_model: torch.nn.Module, runtime: str, threads: int, folder: Path) -> dict[str, Infer]:
    """What `sessions` makes of images of the config's size, as functions."""
    image = packed.config.model.image_shape
    return {name: s.infer for name, s in sessions(packed, float_model, runtime, threads, folder, image).items()}


def sessions(
    packed: Packed, float_model: torch.nn.Module, runtime: str, threads: int, folder: Path, image: Shape
) -> dict[str, Runner]:
    """The model in float32, bfloat16 and integers, each ready to run; of a detector the backbone with its pyramid.

    integer_bf16: what is not integer is in bfloat16. Other runtimes than OpenVINO have two forms, float32 and integer.
    float_model: before it was quantized. folder: for the graphs. image: shape of one. Raises DeployError.
    """
    if runtime not in RUNTIMES:
        raise DeployError(unknown("runtime", runtime, RUNTIMES, key="--runtime"))
    plain, integer = folder / "float.onnx", folder / "integer.onnx"
    structure = packed.model.structure
    write_bytes(plain, export(float_model.get_submodule(structure.exported), image, structure.outputs))
    save_onnx(packed, integer, image=image)
    if runtime != "openvino":
        from vitq.deploy.runtimes.onnxruntime import OnnxSession

        return {name: OnnxSession(path, threads, runtime) for name, path in (("float32", plain), ("integer", integer))}
    from vitq.deploy.runtimes import openvino as ov

    graphs = {"float": ov.convert(plain), "integer": ov.convert(integer)}
    wanted = (
        ("float32", "float", "f32"),
        ("bf16", "float", "bf16"),
        ("integer", "integer", "f32"),
        ("integer_bf16", "integer", "bf16"),
    )
    return {name: ov.Request(ov.compiled(graphs[g], precision, threads)) for name, g, precision in wanted}


def race(models: Mapping[str, Infer], images: np.ndarray, repeats: int) -> dict[str, Timing]:
    """Times all models in turns on one batch, after two warm-up runs each, so that a slow moment hits all of them."""
    for infer in models.values():
        infer(images)
        infer(images)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, infer in models.items():
            start = time.perf_counter()
            infer(images)
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing.of(len(images), taken) for name, taken in seconds.items()}


def bench(
    packed: Packed,
    config: RunConfig,
    recorded: np.ndarray,
    runtime: str,
    threads: int,
    repeats: int,
    progress: Progress,
) -> dict[str, Any]:
    """Speed at batch 1 and 32 and accuracy on the evaluation split, of every form.

    speedup: throughput of `integer` ÷ that of `float32` at batch 32. config: the run's stored config, which knows where
    images and original weights lie. recorded: (N,) classes that the run predicted; agreement with them in percent.
    Detectors: bench_pyramid.py. Raises VitqError.
    """
    if config.task != "classification":
        text = f"bench: `vitq bench` compares classifiers and detectors, and this run has task={config.task}"
        raise DeployError(text, "task", config.task, ["classification", "detection", "segmentation"])
    images = data.eval_set(config, progress)
    float_model = load_model(config.model, config.data, config.cache_dir, progress).eval()
    with tempfile.TemporaryDirectory() as folder:
        models = forms(packed, float_model, runtime, threads, Path(folder))
        cpu = torch.device("cpu")
        first = next(batch for batch, _ in images.batches(32, cpu)).numpy()
        # A small split still gives a full batch.
        batch = np.resize(first, (32, *first.shape[1:]))
        timings = {1: race(models, batch[:1], repeats * 5), 32: race(models, batch, repeats)}
        scores = {}
        for name, infer in models.items():
            chunks = progress.over(images.batches(32, cpu), f"evaluate {name}", -(-len(images) // 32))
            predicted = np.concatenate([infer(chunk.numpy()).argmax(1) for chunk, _ in chunks])
            scores[name] = {
                "top1": float((predicted == images.labels).mean() * 100),
                "agreement": float((predicted == recorded).mean() * 100),
            }
    rows = {
        name: {
            **scores[name],
            **{f"batch{size}": timing[name].plain() for size, timing in timings.items()},
        }
        for name in models
    }
    base = timings[32]["float32"]
    return {
        "signature": packed.signature,
        "runtime": runtime,
        "threads": threads,
        "repeats": repeats,
        "images": len(images),
        "speedup": timings[32]["integer"].images_per_second / base.images_per_second,
        "forms": rows,
    }
