"""What stands for a model's weights in a run's identity: content or a fixed revision, never a path. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

from vitq.config import ModelConfig
from vitq.config.signature import LOCAL_DIR
from vitq.data.content import file_hash
from vitq.errors import DataError, ModelError
from vitq.models.build import EMBEDDED

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar")
HUB = ("hf-hub:", "hf_hub:")


def identify(model: ModelConfig) -> ModelConfig:
    """The config with `weights` filled in: what stands for the weights in the run's identity.

    A checkpoint: sha256 of its content. A trained model: its recipe's version. `local-dir:`: sha256 over what timm
    reads there. `hf-hub:`: the commit that the local cache has, None where the name gives one. A timm name: None, the
    pinned tag in `name` says it. Raises ModelError: missing or unreadable checkpoint, unknown suffix, a hub model
    without a tag or a known commit.
    """
    return dataclasses.replace(model, weights=_weights(model))


def _weights(model: ModelConfig) -> str | None:
    folder = local_dir(model)
    if model.checkpoint is not None:
        weights = _content(checkpoint_path(model))
        if folder is not None:  # the network is that of its config.json
            weights = hashlib.sha256(f"{weights}{_content(folder / 'config.json')}".encode()).hexdigest()
        return weights
    if model.train is not None:
        from vitq.models.train import IDENTITY

        return IDENTITY
    if model.name in EMBEDDED:
        text = f"{model.name!r} has no weights on the hub; set model.train (its recipe) or model.checkpoint"
        raise ModelError(text, "model.train")
    if folder is not None:
        files = [folder / "config.json", *sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))]
        return hashlib.sha256("\n".join(f"{path.name}\0{_content(path)}" for path in files).encode()).hexdigest()
    if model.name.startswith(HUB):
        return _commit(model)
    if model.pretrained and "." not in model.name:
        raise ModelError(
            f"model.name={model.name!r} has no pretrained tag, and timm's default tag changes between versions; name "
            "one, like deit_tiny_patch16_224.fb_in1k, or set model.checkpoint=PATH. They are listed by "
            f"`python -c \"import timm; print(timm.list_pretrained('{model.name}.*'))\"`",
            "model.name",
            model.name,
        )
    return None


def pinned(model: ModelConfig) -> ModelConfig:
    """The config whose name loads what `identify` saw: a hub model at its commit."""
    if not model.name.startswith(HUB) or model.weights is None or model.checkpoint is not None:
        return model
    return dataclasses.replace(model, name=f"{model.name.partition('@')[0]}@{model.weights}")


def checkpoint_path(model: ModelConfig) -> Path:
    """The checkpoint file. Raises ModelError for an unknown suffix, and where it is no file."""
    if not model.checkpoint or "://" in model.checkpoint:
        why = "is a URL; download it, and" if model.checkpoint else "is empty;"
        text = f"model.checkpoint={model.checkpoint!r} {why} give the path of a file"
        raise ModelError(text, "model.checkpoint", model.checkpoint, SUFFIXES)
    path = Path(str(model.checkpoint)).expanduser()
    if not path.name.endswith(SUFFIXES):
        text = f"model.checkpoint={model.checkpoint!r}: unknown suffix; valid: {', '.join(SUFFIXES)}"
        raise ModelError(text, "model.checkpoint", model.checkpoint, SUFFIXES)
    if not path.is_file():
        text = f"model.checkpoint={model.checkpoint!r} is not a file; give the path of the weights"
        raise ModelError(text, "model.checkpoint", model.checkpoint)
    return path


def local_dir(model: ModelConfig) -> Path | None:
    """The folder of a `local-dir:` model. Raises ModelError where it has no config.json."""
    if not model.name.startswith(LOCAL_DIR):
        return None
    folder = Path(model.name.removeprefix(LOCAL_DIR)).expanduser()
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model.name={model.name!r}: no config.json there; name a folder that timm saved (config.json and "
            "model.safetensors), or name the architecture and set model.checkpoint=PATH",
            "model.name",
            model.name,
        )
    return folder


def _content(path: Path) -> str:
    try:
        return file_hash(path)
    except DataError as error:
        raise ModelError(f"checkpoint {error}", "model.checkpoint", str(path)) from error


def _commit(model: ModelConfig) -> str | None:
    """Commit of a hub model's revision in the local cache; None where the name holds it already."""
    from huggingface_hub import try_to_load_from_cache

    repo, _, revision = model.name.partition(":")[2].partition("@")
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return None
    known = try_to_load_from_cache(repo, "config.json", revision=revision or "main")
    if not isinstance(known, str):
        raise ModelError(
            f"model.name={model.name!r} names no commit, and the local cache does not know one: another model could be "
            f"loaded tomorrow; name it, {HUB[0]}{repo}@COMMIT (40 hex digits, under Files on the model's page), or "
            f"download it once: hf download {repo}",
            "model.name",
            model.name,
        )
    return Path(known).parent.name
