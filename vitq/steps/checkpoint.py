"""State of finished segments, or of a step that is on its way, on disk: a killed run goes on and ends the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vitq.config import SCHEMA_VERSION
from vitq.models.structure import Segment
from vitq.quant.model import QuantizedModel
from vitq.quant.quantizer import Quantizer
from vitq.store.atomic import write_bytes

_IDENTITY = {"schema": str(SCHEMA_VERSION), "torch": torch.__version__}


class Checkpoint:
    """One safetensors file for each finished segment of each step, in a folder of the run.

    Each is written atomically. One that is damaged, or was written by another version, is ignored: its segment is
    computed again. restored: something was put back, so that this attempt did not compute all of it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.restored = False

    def save(self, step: str, segment: Segment, model: QuantizedModel, curve: Tensor) -> None:
        """Store the segment's parameters and quantizers, and the losses that led to them. Raises StoreError."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(model, segment).items()}
        write_bytes(self._path(step, segment), save({**tensors, "curve": curve}, metadata=_IDENTITY))

    def restore(self, step: str, segment: Segment, model: QuantizedModel) -> Tensor | None:
        """Put the segment back into its finished state. Returns its losses, or None where nothing fitting is stored."""
        stored = _read(self._path(step, segment))
        if stored is None:
            return None
        curve: Tensor = stored.pop("curve")
        current = _tensors(model, segment)
        if {k: v.shape for k, v in stored.items()} != {k: v.shape for k, v in current.items()}:
            return None
        with torch.no_grad():
            for name, tensor in current.items():
                tensor.copy_(stored[name])
        for module in _modules(model, segment).values():
            if isinstance(module, Quantizer):
                module.refresh()
        self.restored = True
        return curve

    def save_state(self, step: str, tensors: Mapping[str, Tensor]) -> None:
        """Store what a step that learns the whole model at once needs to go on. Raises StoreError."""
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_bytes(self.folder / f"{step}.safetensors", save(kept, metadata=_IDENTITY))

    def restore_state(self, step: str, like: Mapping[str, Tensor]) -> bool:
        """Put what `save_state` stored into tensors of the same names. False, and no change, where it does not fit."""
        stored = _read(self.folder / f"{step}.safetensors")
        if stored is None or {k: v.shape for k, v in stored.items()} != {k: v.shape for k, v in like.items()}:
            return False
        with torch.no_grad():
            for name, tensor in like.items():
                tensor.copy_(stored[name])
        self.restored = True
        return True

    def _path(self, step: str, segment: Segment) -> Path:
        return self.folder / f"{step}-{segment.name}.safetensors"


def _read(path: Path) -> dict[str, Tensor] | None:
    """Tensors of a file of this version, else None."""
    try:
        with safe_open(path, framework="pt") as file:
            if file.metadata() != _IDENTITY:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (FileNotFoundError, SafetensorError):
        return None


def _modules(model: QuantizedModel, segment: Segment) -> dict[str, torch.nn.Module]:
    return {name: module for name, module in model.model.named_modules() if segment.holds(name)}


def _tensors(model: QuantizedModel, segment: Segment) -> dict[str, Tensor]:
    """Parameters of the segment's modules and the parameters of its quantizers, by name."""
    tensors: dict[str, Tensor] = {}
    for name, module in _modules(model, segment).items():
        tensors.update({f"{name}.{key}": value for key, value in module.named_parameters(recurse=False)})
        if isinstance(module, Quantizer):
            tensors.update({f"{name}.{key}": getattr(module, key) for key in module.parameter_names})
    return tensors
