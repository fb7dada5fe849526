"""Whether pretrained weights lie in the local cache of the hub; nothing is downloaded here. No torch."""

from __future__ import annotations

from vitq.config import ModelConfig
from vitq.models.identity import HUB, pinned

_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def repository(model: ModelConfig) -> tuple[str, str | None] | None:
    """(hub repository, revision) that a config's weights come from; None for weights from elsewhere."""
    if model.checkpoint is not None or model.train is not None or not model.pretrained:
        return None
    if model.name.startswith(HUB):
        name, _, revision = pinned(model).name.partition(":")[2].partition("@")
        return name, revision or None
    if ":" in model.name or "." not in model.name:
        return None
    import timm

    known = timm.get_pretrained_cfg(model.name)
    return (known.hf_hub_id, None) if known is not None and known.hf_hub_id else None


def missing(model: ModelConfig) -> str | None:
    """The hub repository of a config's weights where the local cache has them not; None where nothing is missing."""
    from huggingface_hub import try_to_load_from_cache

    known = repository(model)
    if known is None:
        return None
    repo, revision = known
    files = (try_to_load_from_cache(repo, file, revision=revision) for file in _file_names(model))
    return None if any(isinstance(path, str) for path in files) else repo


def offline() -> bool:
    """Whether the hub's client is told not to use the network (HF_HUB_OFFLINE=1)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _file_names(model: ModelConfig) -> tuple[str, ...]:
    import timm

    known = None if ":" in model.name else timm.get_pretrained_cfg(model.name)
    return (known.hf_hub_filename,) if known is not None and known.hf_hub_filename else _FILES
