"""What several tests of exported models share."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from vitq.deploy.onnx import export_onnx

if TYPE_CHECKING:
    from onnx import ModelProto

_KEPT: dict[str, ModelProto] = {}


@pytest.fixture
def exports_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's exporter takes seconds: what it gave for equal models is kept; all else of an export is done anew."""
    original = export_onnx._exported

    def exported(model: nn.Module, image: export_onnx.Shape, outputs: tuple[str, ...] = ("logits",)) -> ModelProto:
        found = hashlib.sha256(f"{model} {image} {outputs}".encode())
        for name, tensor in model.state_dict(keep_vars=True).items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().contiguous().view(torch.uint8 if tensor.ndim else tensor.dtype).numpy())
        if (key := found.hexdigest()) not in _KEPT:
            _KEPT[key] = original(model, image, outputs)
        copy = type(_KEPT[key])()
        copy.CopyFrom(_KEPT[key])
        return copy

    monkeypatch.setattr(export_onnx, "_exported", exported)
