"""What pretrained weights were trained with, by their own word, and where a config departs from it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

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
