"""Small models with random weights, and a calibration set of random images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from vitq.config import RunConfig
from vitq.models.structure import structure_of
from vitq.progress import Progress
from vitq.quant.layers import QuantLinear
from vitq.quant.model import QuantizedModel
from vitq.quant.uniform import UniformQuantizer
from vitq.steps import Workspace
from vitq.steps.step import parse_step


class Images:
    """Random images with the interface of an ImageSet."""

    def __init__(self, count: int, size: int):
        self.x = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))
        self.labels = np.zeros(count, dtype=np.int64)
        self.served = 0

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: list[int]) -> Images:
        """Some of them, in that order."""
        chosen = Images(len(indices), self.x.shape[-1])
        chosen.x = self.x[indices]
        return chosen

    def batches(self, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.x), batch_size):
            batch = self.x[start : start + batch_size].to(device)
            self.served += len(batch)
            yield batch, torch.zeros(len(batch), dtype=torch.int64)


def tiny(family: str, **kwargs: Any) -> nn.Module:
    """A small ViT or Swin on 32×32 images whose norms differ strongly between channels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family == "vit":
            settings: dict[str, Any] = {
                "depth": 2,
                "img_size": 32,
                "patch_size": 8,
                "num_classes": 5,
                "embed_dim": 48,
                "num_heads": 3,
            }
            model = timm.create_model("vit_tiny_patch16_224", pretrained=False, **settings | kwargs)
        else:
            settings = {
                "depths": (2, 2),
                "num_heads": (2, 4),
                "embed_dim": 16,
                "num_classes": 5,
                "img_size": 32,
                "window_size": 4,
                "patch_size": 4,
            }
            model = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, **settings | kwargs)
        for name, parameter in model.named_parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
            if "norm" in name and name.endswith("weight"):
                parameter.data.mul_(torch.exp(torch.randn_like(parameter) * 0.7))
    return model.eval()


def workspaces(cache: Path) -> Callable[..., Workspace]:
    """make(model, method dict, bits…) → a Workspace whose model has quantizers. cache: an empty folder."""

    def make(model: nn.Module, method: dict[str, Any], images: int = 16, size: int = 32, **bits: Any) -> Workspace:
        raw = {
            "model": {"name": "tiny", "input_size": size},
            "data": {"name": "random"},
            "method": {"name": "test", **method},
            "bits": bits,
            "calib": {"size": images, "batch_size": 8},
            # Nothing that an earlier test, or the developer's own runs, measured.
            "cache_dir": str(cache),
        }
        config, problems = RunConfig.parse(raw)
        assert config is not None, problems
        teacher = structure_of(copy.deepcopy(model))
        quantized = QuantizedModel(model)
        quantized.equip(config.method, config.bits)
        return Workspace(quantized, Images(images, size), config, torch.device("cpu"), Progress(), teacher)  # type: ignore[arg-type]

    return make


def part(model: nn.Module, name: str) -> Any:
    """A module by its name, as untyped as torch's attributes are."""
    return model.get_submodule(name)


def images(work: Workspace) -> Tensor:
    """The calibration images of a workspace of these tests."""
    assert isinstance(work.calib, Images)
    return work.calib.x


def uniform(work: Workspace, site: str) -> UniformQuantizer:
    """The uniform quantizer of a site."""
    quantizer = work.model.sites[site].quantizer
    assert isinstance(quantizer, UniformQuantizer)
    return quantizer


def linear(work: Workspace, name: str) -> QuantLinear:
    """A linear layer by its name."""
    layer = work.model.model.get_submodule(name)
    assert isinstance(layer, QuantLinear)
    return layer


def seen(work: Workspace, name: str) -> Tensor:
    """(N, C) float64 inputs of one layer for all calibration images, in full precision."""
    found: list[Tensor] = []
    hook = linear(work, name).register_forward_pre_hook(lambda _, args: found.append(args[0]))
    work.model(images(work))
    hook.remove()
    return found[0].flatten(0, -2).double()


def run(work: Workspace, *steps: dict[str, Any]) -> None:
    for raw in steps:
        step, problems = parse_step("test", raw)
        assert step is not None, problems
        step.run(work)
