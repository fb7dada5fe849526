"""Embedded models, trained by vitq on first use: plain supervised training, AdamW, cosine, shifted images."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vitq.config import DataConfig, ModelConfig
from vitq.config.model import SHIFT
from vitq.data.cache import locked, publish
from vitq.data.location import SCENES
from vitq.data.opening import open_source
from vitq.models.build import classes, create
from vitq.models.descent import Descent, recipe_of
from vitq.progress import Progress

if TYPE_CHECKING:
    import torch

# Raised when this file changes so that the same config trains other weights.
RECIPE = 1
# What stands for the weights of a trained model in a run's identity; the data is in `data.fingerprint`.
IDENTITY = f"trained-by-recipe-{RECIPE}"

SPLIT = "train"


def trained(model: ModelConfig, data: DataConfig, cache_dir: str | Path, progress: Progress) -> Path:
    """Path of the trained weights (safetensors), trained now if no earlier call did so.

    One file per (model config, training data, recipe). Two processes at once: one trains, the other waits for it.
    Raises ModelError when the config has no training recipe, DataError when the data has no `train` split.
    """
    folder = Path(cache_dir).expanduser() / "models"
    path = folder / f"{model.name.replace('/', '_').replace(':', '_')}-{_key(model, data, cache_dir)}.safetensors"
    if path.exists():
        return path
    with locked(path):
        if not path.exists():
            from safetensors.torch import save

            with _one_thread():
                if data.dataset in SCENES:
                    from vitq.models.detection.train import fit as fit_detector

                    state = fit_detector(model, data, SPLIT, cache_dir, progress)
                else:
                    state = fit(model, data, cache_dir, progress)
            publish(path, save({name: tensor.contiguous() for name, tensor in state.items()}))
    return path


def _key(model: ModelConfig, data: DataConfig, cache_dir: str | Path) -> str:
    plain = asdict(model)
    for name in ("checkpoint", "checkpoint_key", "weights", "fp_top1", "pretrained"):
        del plain[name]
    for name in ("short_side", "long_side"):
        if plain[name] is None:  # as keys were before detectors
            del plain[name]
    if plain["train"] is not None and plain["train"]["shift"] == SHIFT:  # as keys were before there was a choice
        del plain["train"]["shift"]
    plain |= {
        "recipe": RECIPE,
        "split": open_source(data, SPLIT, cache_dir).fingerprint,
        "classes": classes(model, data),
        "mean": data.mean or model.mean,
        "std": data.std or model.std,
    }
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def fit(model: ModelConfig, data: DataConfig, cache_dir: str | Path, progress: Progress) -> dict[str, torch.Tensor]:
    """Train from scratch and return the state dict, float32 on the CPU. Every random number comes from `train.seed`.

    Raises ModelError when the config has no training recipe.
    """
    import torch
    from torch.nn import functional

    from vitq.data.sets import split_set

    rule = recipe_of(model)
    images = split_set(model, data, SPLIT, cache_dir, progress)
    generator = torch.Generator().manual_seed(rule.seed)
    network = create(model, data, seed=rule.seed).train()
    descent = Descent(network, rule, rule.epochs * math.ceil(len(images) / rule.batch_size))
    progress.stage(f"train {model.name}", rule.epochs)
    for epoch in range(rule.epochs):
        total = 0.0
        for chosen in torch.randperm(len(images), generator=generator).split(rule.batch_size):
            pixels, labels = next(images.take(chosen.numpy()).batches(len(chosen), "cpu"))
            loss = functional.cross_entropy(
                network(_shift(pixels, rule.shift, generator)), labels, label_smoothing=rule.label_smoothing
            )
            descent.step(loss)
            total += float(loss.detach()) * len(chosen)
        progress.advance(1, f"epoch {epoch + 1}, loss {total / len(images):.3f}")
    return descent.result()


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread: the same weights whatever the number of cores; tensors this small gain little from more."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shift(pixels: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Each image (B, 3, H, W) moved by up to a share of its side in x and y, its border pixels repeated."""
    import torch

    count, _, height, width = pixels.shape
    reach = max(1, round(share * width)) if share else 0
    padded = torch.nn.functional.pad(pixels, (reach,) * 4, mode="replicate")
    start = torch.randint(0, 2 * reach + 1, (2, count), generator=generator)
    rows = (start[0, :, None] + torch.arange(height))[:, None, :, None]
    columns = (start[1, :, None] + torch.arange(width))[:, None, None, :]
    which = torch.arange(count)[:, None, None, None]
    return padded[which, torch.arange(3)[None, :, None, None], rows, columns]
