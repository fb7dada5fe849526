"""How fast and how exact a detector's backbone with its pyramid is in integers, beside float32 in the same runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitq.config import RunConfig
from vitq.data import scored_scenes
from vitq.deploy.bench import race, sessions
from vitq.deploy.graph_shape import Size, graph_shape
from vitq.deploy.packed.packed import Packed
from vitq.errors import DeployError
from vitq.models.load import load_model
from vitq.progress import Progress

COMPARED = 4  # images


@torch.no_grad()
def bench_pyramid(
    packed: Packed, config: RunConfig, runtime: str, threads: int, repeats: int, size: Size | None, progress: Progress
) -> dict[str, Any]:
    """Speed at batch 1, and how far the pyramid is from that of the packed model in torch, of every form.

    size: height and width of the padded images; None for the config's. Compared are the first scored images that fit
    into it. error: of each level, ‖difference‖ / ‖level‖ over these images; float32's is what quantization changes,
    integer's what is rounded otherwise. speedup: throughput of `integer` ÷ that of `float32`. Raises VitqError.
    """
    image = graph_shape(packed, size)
    pixels = _images(config, image, progress)
    exported, names = packed.model.structure.exported, packed.model.structure.outputs
    float_model = load_model(config.model, config.data, config.cache_dir, progress).eval()
    expected = _pyramid(packed.model.model.get_submodule(exported), pixels)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = sessions(packed, float_model, runtime, threads, Path(folder), image)
        timings = race({name: model.infer for name, model in models.items()}, pixels[:1].numpy(), repeats)
        for name, model in models.items():
            levels: list[list[Tensor]] = [[] for _ in names]
            for one in progress.over(pixels.split(1), f"compare {name}", len(pixels)):
                for level, given in zip(levels, model.outputs(one.numpy()), strict=True):
                    level.append(torch.from_numpy(given.copy()))
            outputs = [torch.cat(level) for level in levels]
            rows[name] = {
                "error": {level: _apart(a, b) for level, a, b in zip(names, outputs, expected, strict=True)},
                "batch1": timings[name].plain(),
            }
    return {
        "signature": packed.signature,
        "runtime": runtime,
        "threads": threads,
        "repeats": repeats,
        "images": len(pixels),
        "size": list(image[1:]),
        "speedup": timings["integer"].images_per_second / timings["float32"].images_per_second,
        "forms": rows,
    }


def _images(config: RunConfig, image: tuple[int, int, int], progress: Progress) -> Tensor:
    """(N, *image) float32: the first scored images that fit, padded."""
    scenes = scored_scenes(config, progress)
    fitting = np.flatnonzero((scenes.shapes <= np.array(image[1:])).all(axis=1))[:COMPARED]
    if not len(fitting):
        largest = "x".join(str(side) for side in scenes.shapes.min(axis=0))
        text = f"no scored image fits into {image[1]}x{image[2]} pixels; the smallest sides are {largest}"
        raise DeployError(text, "--size", f"{image[1]}x{image[2]}")
    pixels = torch.zeros(len(fitting), *image)
    for row, (padded, _) in zip(pixels, scenes.take(fitting).batches(1, "cpu"), strict=True):
        height, width = padded.sizes[0].tolist()
        row[:, :height, :width] = padded.pixels[0, :, :height, :width]
    return pixels


def _pyramid(module: nn.Module, pixels: Tensor) -> list[Tensor]:
    return [torch.cat(level) for level in zip(*(module(one) for one in pixels.split(1)), strict=True)]


def _apart(output: Tensor, expected: Tensor) -> float:
    return float((output.double() - expected.double()).norm() / expected.double().norm())
