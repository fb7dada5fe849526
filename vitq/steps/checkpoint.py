"""State of finished segments on disk: a killed run goes on from its last block and ends with the same result."""

from __future__ import annotations

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
    computed again.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, step: str, segment: Segment, model: QuantizedModel, curve: Tensor) -> None:
        """Store the segment's parameters and quantizers, and the losses that led to them. Raises StoreError."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(model, segment).items()}
        write_bytes(self._path(step, segment), save({**tensors, "curve": curve}, metadata=_IDENTITY))

    def restore(self, step: str, segment: Segment, model: QuantizedModel) -> Tensor | None:
        """Put the segment back into its finished state. Returns its losses, or None where nothing fitting is stored."""
        try:
            with safe_open(self._path(step, segment), framework="pt") as file:
                if file.metadata() != _IDENTITY:
                    return None
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (FileNotFoundError, SafetensorError):
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
        return curve

    def _path(self, step: str, segment: Segment) -> Path:
        return self.folder / f"{step}-{segment.name}.safetensors"


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
