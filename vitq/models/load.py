"""A config's model with its weights: trained here, from a checkpoint file, or from the hub."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitq.config import DataConfig, ModelConfig
from vitq.errors import ModelError, Problem, first_line
from vitq.models.build import EMBEDDED, classes, create, settle, through_timm
from vitq.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["check_weights", "create", "identify", "load_model"]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_SHOWN = 5  # keys named in an error


def identify(model: ModelConfig) -> ModelConfig:
    """The config with `weights` filled in: what stands for the weights in the run's identity. No torch.

    A checkpoint: sha256 of its content. A trained model: its recipe's version. The hub: None, the pinned tag in `name`
    says it. Raises ModelError: missing or unreadable checkpoint, unknown suffix, a hub model without a tag.
    """
    if model.checkpoint is not None:
        return dataclasses.replace(model, weights=_content(_checkpoint(model)))
    if model.train is not None:
        from vitq.models.train import recipe

        return dataclasses.replace(model, weights=recipe(model))
    if model.name in EMBEDDED:
        text = f"{model.name!r} has no weights on the hub; set model.train (its recipe) or model.checkpoint"
        raise ModelError(text, "model.train")
    if model.pretrained and ":" not in model.name and "." not in model.name:
        raise ModelError(
            f"model.name={model.name!r} has no pretrained tag, and timm's default tag changes between versions; name "
            "one, like deit_tiny_patch16_224.fb_in1k, or set model.checkpoint=PATH. They are listed by "
            f"`python -c \"import timm; print(timm.list_pretrained('{model.name}.*'))\"`",
            "model.name",
            model.name,
        )
    return dataclasses.replace(model, weights=None)


def load_model(model: ModelConfig, data: DataConfig, cache_dir: str | Path, progress: Progress) -> nn.Module:
    """The network in float32, evaluation mode, on the CPU; dropout and drop path at 0.

    Weights in this order: `checkpoint`, `train` (trained on first use), the hub (`pretrained`), else random ones that
    are always the same. The head has `model.kwargs.num_classes` outputs, else `data.num_classes`.
    Raises ModelError: weights missing or not fitting, no network for a hub model, content other than the plan's.
    """
    if model.checkpoint is not None:
        path = _checkpoint(model)
        if model.weights is not None and _content(path) != model.weights:
            raise ModelError(
                f"checkpoint {str(path)!r} is not the one of the plan (its sha256 differs from model.weights="
                f"{model.weights}); plan the run again, or restore the file",
                "model.weights",
                model.weights,
            )
        return _fill(create(model, data), path)
    if model.train is not None:
        from vitq.models.train import trained

        return _fill(create(model, data), trained(model, data, cache_dir, progress))
    if model.pretrained:
        progress.stage(f"load {model.name}")
        return _from_hub(identify(model), data)
    return create(model, data)


def check_weights(network: nn.Module, model: ModelConfig, data: DataConfig) -> None:
    """Raise ModelError where the config's checkpoint or pretrained head does not fit the network (any device).

    Nothing is downloaded: what only the hub knows is not looked at.
    """
    if model.checkpoint is not None:
        _fitting(network, _checkpoint(model))
    elif model.train is None and model.pretrained:
        _check_head(model, classes(model, data))


def _checkpoint(model: ModelConfig) -> Path:
    path = Path(str(model.checkpoint)).expanduser()
    if path.suffix not in SUFFIXES:
        text = f"model.checkpoint={model.checkpoint!r}: unknown suffix; valid: {', '.join(SUFFIXES)}"
        raise ModelError(text, "model.checkpoint", model.checkpoint, SUFFIXES)
    if not path.is_file():
        text = f"model.checkpoint={model.checkpoint!r} is not a file; give the path of the weights"
        raise ModelError(text, "model.checkpoint", model.checkpoint)
    return path


def _content(path: Path) -> str:
    try:
        facts = path.stat()
        return _sha256(str(path.absolute()), facts.st_size, facts.st_mtime_ns)
    except OSError as error:
        text = f"checkpoint {str(path)!r} cannot be read: {error.strerror or error}"
        raise ModelError(text, "model.checkpoint", str(path)) from error


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_hub(model: ModelConfig, data: DataConfig) -> nn.Module:
    wanted = classes(model, data)
    _check_head(model, wanted)
    try:
        network = through_timm(model, {**model.kwargs, "num_classes": wanted}, pretrained=True)
    except _download_errors() as error:
        raise ModelError(
            f"the weights of {model.name!r} are not in the hub's local cache and cannot be downloaded "
            f"({type(error).__name__}: {first_line(error, 'no message')}); without network, copy the file here and set "
            "model.checkpoint=PATH (safetensors or .pth)",
            "model.checkpoint",
        ) from error
    return settle(network, model)


def _check_head(model: ModelConfig, wanted: int) -> None:
    """Raise ModelError for pretrained weights whose head has other classes: timm would put a random one there."""
    import timm

    if ":" in model.name:
        return
    known = timm.get_pretrained_cfg(model.name.partition(".")[0]) and timm.get_pretrained_cfg(model.name)
    if known is not None and known.num_classes != wanted:
        raise ModelError(
            f"the pretrained head of {model.name!r} has {known.num_classes} classes, data.num_classes={wanted}; "
            "use data with those classes, or a checkpoint fine-tuned for yours (model.checkpoint)",
            "data.num_classes",
            wanted,
            [known.num_classes],
        )


def _download_errors() -> tuple[type[Exception], ...]:
    """What a failed download raises; which one depends on the version of the hub's client."""
    import huggingface_hub.errors as hub

    errors: list[type[Exception]] = [
        OSError,
        EOFError,
        hub.HfHubHTTPError,
        hub.LocalEntryNotFoundError,
        hub.OfflineModeIsEnabled,
    ]
    for module in ("httpx", "requests"):
        if module in sys.modules:
            error = getattr(sys.modules[module], "HTTPError" if module == "httpx" else "RequestException")
            errors.append(error)
    return tuple(errors)


def _fill(network: nn.Module, path: Path) -> nn.Module:
    """Load a file strictly."""
    network.load_state_dict(_fitting(network, path), strict=True)
    return network


def _fitting(network: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """A file's weights; where names or shapes differ, through the checkpoint filter of the model's timm module.

    Raises ModelError for weights that differ from the network's even then.
    """
    state = _read(path)
    own = network.state_dict()
    if _misfits(own, state):
        filtered = _filter(network)
        if filtered is not None:
            try:
                state = dict(filtered(state, network))
            except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
                raise ModelError(_not_fitting(path, network, _misfits(own, state))) from error
    wrong = _misfits(own, state)
    if wrong:
        raise ModelError(_not_fitting(path, network, wrong))
    return state


def _read(path: Path) -> dict[str, torch.Tensor]:
    import torch
    from timm.models import load_state_dict

    try:
        state = load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # safetensors, zip and pickle each have their own errors for a broken file
        reason = f"{type(error).__name__}: {first_line(error, 'no message')}"
        raise ModelError(
            f"checkpoint {str(path)!r} cannot be read as weights ({reason}); give "
            "a safetensors file, or a .pth that torch.load(weights_only=True) accepts",
            "model.checkpoint",
            str(path),
        ) from error
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ModelError(
            f"checkpoint {str(path)!r} holds no tensors at its top level, under `model` or under `state_dict`; "
            f"its keys: {', '.join(map(str, list(state)[:_SHOWN])) or 'none'}",
            "model.checkpoint",
            list(state),
        )
    return tensors


def _filter(network: nn.Module) -> Any:
    """timm's `checkpoint_filter_fn` for this class or one that it derives from, else None."""
    for kind in type(network).__mro__:
        convert = getattr(sys.modules[kind.__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            return convert
    return None


def _misfits(own: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> list[str]:
    """What differs between a network and a checkpoint, one entry per kind of difference."""
    missing = [name for name in own if name not in state]
    strange = [name for name in state if name not in own]
    reshaped = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    kinds = (("missing", missing), ("unexpected", strange), ("other shape", reshaped))
    return [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{' …' if len(names) > _SHOWN else ''}"
        for what, names in kinds
        if names
    ]


def _not_fitting(path: Path, network: nn.Module, wrong: list[str]) -> Problem:
    text = (
        f"checkpoint {str(path)!r} does not fit {type(network).__name__}: {'; '.join(wrong)}; "
        "check model.name, model.kwargs and data.num_classes"
    )
    return Problem(text, "model.checkpoint", wrong)
