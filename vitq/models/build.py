"""Architectures with untrained weights: the embedded ones by class, all others through `timm.create_model`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vitq.config import DataConfig, ModelConfig
from vitq.errors import ModelError, Problem
from vitq.registry import Registry

if TYPE_CHECKING:
    from torch import nn

# Embedded architectures: name → constructor. Their shape is `model.kwargs`, so it is part of a run's identity.
EMBEDDED: Registry[Callable[..., nn.Module]] = Registry("embedded model", "vitq.models")


# Name → module of timm.models, class.
_SMALL = {
    "vit_digits": ("vision_transformer", "VisionTransformer"),
    "swin_digits": ("swin_transformer", "SwinTransformer"),
    "swinv2_digits": ("swin_transformer_v2", "SwinTransformerV2"),
    "eva_digits": ("eva", "Eva"),
    "beit_digits": ("beit", "Beit"),
}


def _small(module: str, kind: str, **kwargs: Any) -> nn.Module:
    network: nn.Module = getattr(import_module(f"timm.models.{module}"), kind)(**kwargs)
    return network


for _name, _class in _SMALL.items():
    EMBEDDED.register(_name)(partial(_small, *_class))


def classes(model: ModelConfig, data: DataConfig) -> int:
    """Number of outputs of the head: `model.kwargs.num_classes` where given, else `data.num_classes`."""
    return int(model.kwargs.get("num_classes", data.num_classes))


def create(model: ModelConfig, data: DataConfig, seed: int = 0) -> nn.Module:
    """The network with random weights that depend on `seed` alone, float32, on the CPU, dropout and drop path at 0.

    Raises ModelError for a name that timm does not know, for keyword arguments that the architecture refuses, and for
    an image size that differs from `model.input_size`.
    """
    import torch

    kwargs = {**model.kwargs, "num_classes": classes(model, data)}
    # Initial weights come from torch's global generator; the fork puts its state back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = through_timm(model, kwargs, pretrained=False)
    return settle(network, model)


def shell(model: ModelConfig, data: DataConfig) -> nn.Module:
    """The network on torch's `meta` device: names and shapes, no numbers. Raises as `create`."""
    import torch

    try:
        with torch.device("meta"):
            return create(model, data)
    except ModelError:
        # Some versions of timm read numbers while they build; where the network itself is wrong, this raises again.
        return create(model, data).to("meta")


def through_timm(model: ModelConfig, kwargs: dict[str, Any], pretrained: bool) -> nn.Module:
    """`timm.create_model`, or the class of an embedded model; what it raises for a wrong name, tag or argument becomes
    a ModelError."""
    import timm

    name = model.name.partition(".")[0]
    if ":" not in model.name and model.name not in EMBEDDED and not timm.is_model(name):
        raise ModelError(_unknown_name(name))
    try:
        if model.name in EMBEDDED:
            return EMBEDDED[model.name](**kwargs)
        network: nn.Module = timm.create_model(model.name, pretrained=pretrained, **kwargs)
    except (TypeError, ValueError, AssertionError) as error:  # timm checks head and patch sizes by assertions
        raise ModelError(_cannot_build(model, error)) from error
    except RuntimeError as error:
        if "pretrained tag" not in str(error):
            raise ModelError(_cannot_build(model, error)) from error
        tags = timm.list_pretrained(f"{name}.*")
        tag, valid = model.name.partition(".")[2], ", ".join(tags) or "none"
        text = f"timm has no pretrained tag {tag!r} for {name!r} (model.name); valid: {valid}"
        raise ModelError(text, "model.name", model.name, tags) from error
    return network


def _cannot_build(model: ModelConfig, error: Exception) -> Problem:
    text = f"timm cannot build {model.name!r} with model.kwargs={model.kwargs}: {error}"
    return Problem(text, "model.kwargs", model.kwargs)


def _unknown_name(name: str) -> Problem:
    import difflib

    import timm

    close = difflib.get_close_matches(name, [*timm.list_models(), *EMBEDDED], n=4)
    listed = "`python -c 'import timm; print(timm.list_models())'` lists them"
    hint = f"close names: {', '.join(close)}" if close else listed
    return Problem(f"timm has no model {name!r} (model.name); {hint}", "model.name", name, close)


def settle(network: nn.Module, model: ModelConfig) -> nn.Module:
    """Float32, evaluation mode, dropout and drop path at 0 (a step that trains must not meet noise); size checked."""
    from timm.layers import DropPath
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
    size, given = required_size(network, model.image_shape[1:]), model.input_size
    if size is not None and size != model.image_shape[1:]:
        side = size[0] if size[0] == size[1] else f"[{size[0]},{size[1]}]"
        text = f"{model.name!r} is built for {size[0]}x{size[1]} images, but model.input_size={given}"
        action = f"set model.kwargs.img_size={given}, or model.input_size={side}"
        raise ModelError(f"{text}; {action}", "model.input_size", given, [size[0]])
    return network.float().eval()


def required_size(network: nn.Module, images: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width that a network was built for, where it takes no `images` of that size as well; else None.

    Of networks with rotary embeddings that take several sizes, segments know square images of other sizes alone.
    """
    embed = getattr(network, "patch_embed", None)
    size = getattr(embed, "img_size", None)
    if size is None:
        return None
    square = images[0] == images[1] and size[0] == size[1]
    rotary = getattr(network, "rope", None) is not None
    several = not getattr(embed, "strict_img_size", True) and (square or not rotary)
    return None if several else (size[0], size[1])
