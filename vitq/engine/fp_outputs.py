"""Full-precision logits of a model on a split, computed once for all runs that are compared with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from vitq.config import SCHEMA_VERSION, RunConfig, canonical
from vitq.data import ImageSet
from vitq.engine.evaluate import logits
from vitq.progress import Progress
from vitq.store.atomic import write_bytes


def reference_logits(
    config: RunConfig, model: nn.Module, images: ImageSet, device: torch.device, progress: Progress
) -> Tensor:
    """(N, classes) float32 logits of the untouched timm model, from the cache where an equal run left them there."""
    path = cache_path(config, images, device)
    cached = _read(path, len(images))
    if cached is not None:
        return cached
    computed = logits(model, images, config.data.batch_size, device, progress, "full precision")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save({"logits": computed}))
    return computed


def cache_path(config: RunConfig, images: ImageSet, device: torch.device) -> Path:
    """File of these logits: keyed by model, images and their normalization, batch size, kind of device, versions."""
    plain = canonical(config)
    key = {
        "schema": SCHEMA_VERSION,
        "model": plain["model"],
        "images": images.fingerprint,
        # Pixels are kept as they were decoded; what normalizes them is not in their fingerprint.
        "mean": list(images.mean),
        "std": list(images.std),
        "batch_size": config.data.batch_size,
        "device": device.type,
        "classes": config.data.num_classes,
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    return Path(config.cache_dir).expanduser() / "logits" / f"{digest}.safetensors"


def _read(path: Path, count: int) -> Tensor | None:
    try:
        cached = load(path.read_bytes())["logits"]
    except (FileNotFoundError, SafetensorError, KeyError):  # a damaged entry of the cache is computed and written anew
        return None
    return cached if len(cached) == count else None
