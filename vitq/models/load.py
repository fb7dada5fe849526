"""A config's model with its weights: trained here, from a checkpoint file, or from the hub."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vitq.config import DataConfig, ModelConfig
from vitq.errors import ModelError, first_line
from vitq.models.build import classes, create, settle, through_timm
from vitq.models.checkpoint import fitting
from vitq.models.hub_cache import missing, offline
from vitq.models.identity import checkpoint_path, identify, pinned
from vitq.models.pretrained import configuration
from vitq.progress import Progress

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_weights", "create", "identify", "load_model"]


def load_model(model: ModelConfig, data: DataConfig, cache_dir: str | Path, progress: Progress) -> nn.Module:
    """The network in float32, evaluation mode, on the CPU; dropout and drop path at 0.

    Weights in this order: `checkpoint`, `train` (trained on first use), the hub (`pretrained`), else random ones that
    are always the same. The head has `model.kwargs.num_classes` outputs, else `data.num_classes`;
    there is none for 0, and what the weights hold of one is left out.
    Raises ModelError: weights missing or not fitting, no network for a hub model, content other than the plan's.
    """
    known = _planned(model)
    if model.checkpoint is not None:
        return _fill(create(model, data), checkpoint_path(model), model.checkpoint_key)
    if (path := trained_here(model, data, cache_dir, progress)) is not None:
        return _fill(create(model, data), path, None)
    if model.pretrained:
        progress.stage(f"load {model.name}")
        return _from_hub(known, data)
    return create(pinned(known), data)


def trained_here(model: ModelConfig, data: DataConfig, cache_dir: str | Path, progress: Progress) -> Path | None:
    """File of the weights of a model that is trained on first use, which this may be; None for others."""
    if model.checkpoint is not None or model.train is None:
        return None
    from vitq.models.train import trained

    kwargs = {key: value for key, value in model.kwargs.items() if (key, value) != ("num_classes", 0)}
    headed = dataclasses.replace(model, kwargs=kwargs)  # which labels can train
    return trained(headed, data, cache_dir, progress)


def _planned(model: ModelConfig) -> ModelConfig:
    """The config, its weights identified again. Raises ModelError where they are not those of the plan."""
    if model.weights is None and (model.checkpoint is not None or model.train is not None or not model.pretrained):
        return model  # no plan, or weights that are made here
    known = identify(model)
    if model.weights is not None and known.weights != model.weights:
        what = f"checkpoint {model.checkpoint!r}" if model.checkpoint is not None else f"model.name={model.name!r}"
        raise ModelError(
            f"{what} is not the one of the plan (its content differs from model.weights={model.weights}); plan the run "
            "again, or restore the file",
            "model.weights",
            model.weights,
        )
    return known


def check_weights(network: nn.Module, model: ModelConfig, data: DataConfig) -> list[str]:
    """What is done to the config's checkpoint to fit the network (any device), in words.

    Raises ModelError where it, or a pretrained head, does not fit, and where weights of the hub are neither in its
    local cache nor may be downloaded. Nothing is downloaded: what only the hub knows is not looked at.
    """
    if model.checkpoint is not None:
        return fitting(network, checkpoint_path(model), model.checkpoint_key)[1]
    if model.train is None and model.pretrained:
        _check_head(model, classes(model, data))
        if offline() and (absent := missing(model)) is not None:
            text = (
                f"the weights of {model.name!r} ({absent}) are not in the hub's local cache, and HF_HUB_OFFLINE "
                "forbids to download them; fetch them where there is a network (`vitq fetch SWEEP`), or set "
                "model.checkpoint=PATH"
            )
            raise ModelError(text, "model.name", model.name)
    return []


def _fill(network: nn.Module, path: Path, key: str | None) -> nn.Module:
    network.load_state_dict(fitting(network, path, key)[0], strict=True)
    return network


def _from_hub(model: ModelConfig, data: DataConfig) -> nn.Module:
    wanted = classes(model, data)
    _check_head(model, wanted)
    try:
        network = through_timm(pinned(model), {**model.kwargs, "num_classes": wanted}, pretrained=True)
    except _download_errors() as error:
        raise ModelError(
            f"the weights of {model.name!r} are not in the hub's local cache and cannot be downloaded "
            f"({type(error).__name__}: {first_line(error, 'no message')}); without network, run `vitq fetch SWEEP` "
            "where there is one, or copy the file here and set model.checkpoint=PATH (safetensors or .pth)",
            "model.checkpoint",
        ) from error
    _same_head(model, getattr(network, "pretrained_cfg", {}).get("num_classes", wanted), wanted)
    return settle(network, model)


def _check_head(model: ModelConfig, wanted: int) -> None:
    """Raise ModelError for pretrained weights whose head has other classes: timm would put a random one there."""
    known = configuration(model)
    if known is not None and known.get("num_classes") is not None:
        _same_head(model, int(known["num_classes"]), wanted)


def _same_head(model: ModelConfig, known: int, wanted: int) -> None:
    if not wanted:
        return
    if not known:
        raise ModelError(
            f"the pretrained weights of {model.name!r} have no head; judge their features (task=features), or give a "
            "checkpoint with a head for your classes (model.checkpoint)",
            "task",
            "classification",
            ["features"],
        )
    if known != wanted:
        raise ModelError(
            f"the pretrained head of {model.name!r} has {known} classes, data.num_classes={wanted}; "
            "use data with those classes, or a checkpoint fine-tuned for yours (model.checkpoint)",
            "data.num_classes",
            wanted,
            [known],
        )


def _download_errors() -> tuple[type[Exception], ...]:
    """What a failed download raises. The errors of `requests` and of the hub's client are OSErrors, httpx's are not."""
    httpx = sys.modules.get("httpx")
    return (OSError, EOFError) if httpx is None else (OSError, EOFError, httpx.HTTPError)
