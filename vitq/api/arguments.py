"""What a caller of `vitq.quantize` says, as the config that steps, checks and packed checkpoints read."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from vitq.config import RunConfig
from vitq.data.given import TensorImages
from vitq.errors import ConfigError, Problem, first_line
from vitq.planning import compose

# A name of conf/method or conf/bits, the path of a YAML file, or what such a file holds.
Option = str | os.PathLike[str] | Mapping[str, Any]

# What stands for a dataset where the images are the caller's.
GIVEN = "given"
_CHANGEABLE = ("method.", "bits.", "calib.batch_size=", "calib.cache=")
_PREPROCESSING = ("mean", "std", "crop_pct", "interpolation")


def config_of(
    method: Option,
    bits: Option,
    overrides: Sequence[str],
    model: Mapping[str, Any],
    images: TensorImages,
    classes: int,
    **run: Any,
) -> RunConfig:
    """The config of a model and images that the caller gives. model: of `describe`. run: seed, device.

    Raises ConfigError with everything that a plan of the same recipe would refuse before it looks at the network.
    """
    if foreign := [word for word in overrides if not word.lstrip("+~").startswith(_CHANGEABLE)]:
        why = f"not for a model of the caller; valid: {', '.join(_CHANGEABLE)}"
        raise ConfigError(Problem(f"override {word!r}: {why}", "overrides", word, _CHANGEABLE) for word in foreign)
    raw = _composed({"method": method, "bits": bits}, overrides)
    data = {"name": GIVEN, "num_classes": classes, "fingerprint": images.fingerprint}
    calib = {**raw["calib"], "size": len(images)}
    config, problems = RunConfig.parse(
        {"method": raw["method"], "bits": raw["bits"], "calib": calib, "model": dict(model), "data": data, **run}
    )
    if config is None:
        raise ConfigError(problems)
    return config


def describe(model: nn.Module, size: int, classes: int, name: str | None, kwargs: Mapping[str, Any] | None) -> Any:
    """The `model` section: how timm builds the architecture, as far as the model knows it, and its weights' sha256.

    size: pixels of a side; classes: outputs, where the model does not say (a backbone says 0). name, kwargs: what the
    caller says in place of what the model says.
    Raises ConfigError for keyword arguments that JSON cannot hold.
    """
    known: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    own_name = ".".join(filter(None, (known.get("architecture"), known.get("tag"))))
    own = dict(kwargs or {})
    if kwargs is None and name is None and known.get("input_size", (3, size, size))[-1] != size:
        own["img_size"] = size
    try:
        json.dumps(own, allow_nan=False)
    except (TypeError, ValueError) as error:
        text = f"model_kwargs={own}: {error}; valid: numbers, texts, lists and mappings"
        raise ConfigError([Problem(text, "model_kwargs", own)]) from error
    return {
        "name": name or own_name or type(model).__name__,
        "kwargs": {"num_classes": getattr(model, "num_classes", classes), **own},
        "pretrained": False,
        "weights": _sha256(model),
        "input_size": size,
        **{key: known[key] for key in _PREPROCESSING if known.get(key) is not None},
    }


def _composed(groups: Mapping[str, Option], overrides: Sequence[str]) -> dict[str, Any]:
    """The config with these options, composed as the command line does: Hydra's grammar, `base`, plug-ins' files."""
    with tempfile.TemporaryDirectory(prefix="vitq-") as folder:
        words = [f"{group}={_name(group, option, Path(folder))}" for group, option in groups.items()]
        (cell,) = compose.expand(compose.load(*compose.root_config(folder), [*words, *overrides]))
    if cell.problem is not None:
        raise ConfigError([cell.problem])
    return cell.raw


def _name(group: str, option: Option, folder: Path) -> str:
    """A name that the group has: the option itself, or that of a file in `folder`, where its content is written."""
    if isinstance(option, str) and not option.endswith((".yaml", ".yml")):
        return option
    try:
        if isinstance(option, Mapping):
            text = yaml.safe_dump(dict(option), sort_keys=False)
        else:
            text = Path(option).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([Problem(f"{group}={option}: cannot be read: {first_line(error)}", group, option)]) from error
    (folder / group).mkdir()
    (folder / group / f"{GIVEN}.yaml").write_text(text, encoding="utf-8")
    return GIVEN


def _sha256(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
