"""What the full-precision model gives for a split, computed once for all runs that are compared with it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from vitq.config import SCHEMA_VERSION, RunConfig, canonical
from vitq.data import Images
from vitq.engine.evaluate import outputs
from vitq.progress import Progress
from vitq.store.atomic import write_bytes
from vitq.tasks.task import Outputs, Task


def reference_outputs(
    config: RunConfig, task: Task, model: nn.Module, images: Images, device: torch.device, progress: Progress
) -> Outputs:
    """Outputs of the untouched model, on the CPU, from the cache where an equal run left them there."""
    path = cache_path(config, images, device)
    cached = _read(path)
    if cached is not None:
        return cached
    computed = outputs(task, model, images, config.data.batch_size, device, progress, "full precision")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save(dict(computed)))
    return computed


def cache_path(config: RunConfig, images: Images, device: torch.device) -> Path:
    """File of these outputs: keyed by model, images and their normalization, batch size, kind of device, versions."""
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
    if config.task != "classification":
        key["task"] = config.task
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    return Path(config.cache_dir).expanduser() / "logits" / f"{digest}.safetensors"


def _read(path: Path) -> Outputs | None:
    try:
        return load(path.read_bytes())
    except (FileNotFoundError, SafetensorError):  # a damaged entry of the cache is computed and written anew
        return None
