"""What pretrained weights were trained with, by their own word, and where a config departs from it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from vitq.config import DataConfig, ModelConfig
from vitq.errors import ModelError
from vitq.models.identity import local_dir


def configuration(model: ModelConfig) -> Mapping[str, Any] | None:
    """Preprocessing and classes of a config's pretrained weights: mean, std, crop_pct, interpolation, input_size …

    From timm's tag, or from the config.json of a `local-dir:` model; None where nothing is known without a download.
    """
    folder = local_dir(model)
    if folder is not None:
        try:
            plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{str(folder / 'config.json')!r} cannot be read: {error}; save the model again",
                "model.name",
                model.name,
            ) from error
        return {"num_classes": plain.get("num_classes"), **plain.get("pretrained_cfg", {})}
    if ":" in model.name or "." not in model.name:
        return None
    import timm

    known = timm.get_pretrained_cfg(model.name.partition(".")[0]) and timm.get_pretrained_cfg(model.name)
    return known.to_dict() if known is not None else None


# What stands in a config's section `model` where neither it nor a pretrained tag says otherwise.
_USUAL = {
    "input_size": 224,
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


def with_preprocessing(config: dict[str, Any]) -> dict[str, Any]:
    """A config as plain values, whose preprocessing keys that are null are filled in.

    `model.input_size` is `model.kwargs.img_size` where that is given. Everything else is what the pretrained tag was
    trained with; without one (`checkpoint`, weights of the hub) ImageNet's usual, at the size of timm's network.
    """
    plain = config.get("model")
    empty = [key for key in _USUAL if isinstance(plain, dict) and plain.get(key, "") is None]
    if not empty or not isinstance(plain, dict):
        return config
    kwargs = plain.get("kwargs")
    size = kwargs.get("img_size") if isinstance(kwargs, dict) else None
    known = {} if empty == ["input_size"] and size is not None else _known(plain)
    filled = {key: _USUAL[key] if known.get(key) in (None, "random") else known[key] for key in empty}
    if "input_size" in empty:
        size = known.get("input_size", (3, 224, 224))[1:] if size is None else size
        sides = [size, size] if isinstance(size, int) else list(cast(Sequence[int], size))
        filled["input_size"] = sides[0] if len(set(sides)) == 1 else sides
    filled |= {key: list(cast(Sequence[float], filled[key])) for key in ("mean", "std") if key in filled}
    return {**config, "model": {**plain, **filled}}


def resized(config: dict[str, Any], overridden: Collection[str]) -> dict[str, Any]:
    """A config as plain values; `model.kwargs.img_size` is the input size too where an override gives the one alone.

    overridden: keys of the overrides.
    """
    plain = config.get("model")
    kwargs = plain.get("kwargs") if isinstance(plain, dict) else None
    size = kwargs.get("img_size") if isinstance(kwargs, dict) else None
    if not isinstance(size, int | list) or not isinstance(plain, dict) or "model.input_size" in overridden:
        return config
    if not any(key == "model.kwargs" or key.startswith("model.kwargs.") for key in overridden):
        return config
    return {**config, "model": {**plain, "input_size": None}}


def without_head(config: dict[str, Any]) -> dict[str, Any]:
    """A config as plain values; `task=features` builds the network without a head (`model.kwargs.num_classes=0`)."""
    plain = config.get("model")
    kwargs = (plain.get("kwargs") or {}) if isinstance(plain, dict) else None
    if config.get("task") != "features" or not isinstance(plain, dict) or not isinstance(kwargs, dict):
        return config
    return {**config, "model": {**plain, "kwargs": {"num_classes": 0, **kwargs}}}


def _known(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is known of a section `model` that is not complete yet; of weights of the user's own the size alone."""
    name = str(plain.get("name"))
    try:
        known = configuration(ModelConfig(name))
    except ModelError:
        return {}  # `identify` says so, together with all else that is wrong
    if known is None and ":" not in name:
        import timm

        usual = timm.get_pretrained_cfg(name.partition(".")[0])
        known = None if usual is None else usual.to_dict()
    own = plain.get("checkpoint") is not None or plain.get("train") is not None or not plain.get("pretrained", True)
    return {key: value for key, value in (known or {}).items() if key == "input_size" or not own}


def treatment(model: ModelConfig, data: DataConfig) -> str | None:
    """How images reach weights of a pretrained tag, in a line; None for other weights."""
    if model.checkpoint is not None or model.train is not None or not model.pretrained or configuration(model) is None:
        return None
    values = {
        "input_size": model.input_size, "crop_pct": model.crop_pct, "interpolation": model.interpolation,
        "mean": data.mean or model.mean, "std": data.std or model.std,
    }  # fmt: skip
    return f"preprocessing of {model.name}: {', '.join(f'{key}={_text(value)}' for key, value in values.items())}"


def departures(model: ModelConfig, data: DataConfig) -> list[str]:
    """Where a config treats images otherwise than its pretrained weights were trained, one line each.

    Weights of the user's own (`checkpoint`, `train`) are not known to anybody. Where the config has a published
    `fp_top1`, crop and interpolation are those of that figure.
    """
    if model.checkpoint is not None or model.train is not None or not model.pretrained:
        return []
    known = configuration(model)
    if known is None:
        return []
    where = f"{model.name!r} was trained with"
    keys: dict[str, Any] = {"mean": data.mean or model.mean, "std": data.std or model.std}
    if model.fp_top1 is None:
        keys |= {"crop_pct": model.crop_pct, "interpolation": model.interpolation}
    lines = []
    for key, ours in keys.items():
        theirs = known.get(key)
        if theirs is not None and not _equal(ours, theirs):
            section = "data" if key in ("mean", "std") and getattr(data, key) else "model"
            wanted = _text(theirs)
            lines.append(f"preprocessing: {section}.{key}={_text(ours)}, {where} {wanted}; set model.{key}={wanted}")
    if known.get("input_size"):
        channels, *size = known["input_size"]
        if tuple(size) != model.image_shape[1:]:
            lines.append(
                f"model.input_size={_text(model.input_size)}, {where} {_text(tuple(size))}: position embeddings (ViT) "
                "or relative position biases (Swin) are resampled"
            )
        if channels != model.image_shape[0]:
            lines.append(f"model.kwargs.in_chans={model.image_shape[0]}, {where} {channels}: patch kernels are summed")
    patch, size = re.search(r"patch(\d+)", model.name), model.kwargs.get("patch_size")
    if patch and size not in (None, int(patch[1])):
        lines.append(f"model.kwargs.patch_size={size}, {where} {patch[1]}: patch kernels are resampled")
    return lines


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, str):
        return str(theirs) in (ours, "random")
    if isinstance(ours, tuple):
        return len(ours) == len(theirs) and all(abs(a - b) < 1e-3 for a, b in zip(ours, theirs, strict=True))
    return bool(abs(ours - theirs) < 1e-6)


def _text(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple | list) else str(value)
