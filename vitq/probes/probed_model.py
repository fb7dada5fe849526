"""What a probe looks at: the quantized model, the full-precision one, and some labelled images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vitq import data
from vitq.config import RunConfig
from vitq.data import Images
from vitq.models.load import load_model
from vitq.models.structure import Structure, structure_of
from vitq.progress import Progress
from vitq.quant.model import QuantizedModel
from vitq.tasks.task import task_of


@dataclass
class Subject:
    """model: as the run left it. images: the probe set, N images of those that are scored. config: of the run."""

    model: QuantizedModel
    images: Images
    config: RunConfig
    device: torch.device
    progress: Progress

    @classmethod
    def of(cls, config: RunConfig, model: QuantizedModel, device: torch.device, progress: Progress) -> Subject:
        """The subject of a run whose model is at hand."""
        split = task_of(config).images(config, progress)
        images = split.take(spread(len(split), config.probe.images))
        return cls(model.eval(), images, config, device, progress)

    @cached_property
    def reference(self) -> Structure:
        """The untouched full-precision model."""
        config = self.config
        return structure_of(
            load_model(config.model, config.data, config.cache_dir, self.progress).to(self.device).eval()
        )

    @cached_property
    def calib(self) -> Images:
        return data.calibrating(self.config, self.progress)

    @cached_property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Normalized probe images (B, 3, H, W), `Padded` for a detector, and their labels (B,), on the device."""
        return list(self.images.batches(self.config.data.batch_size, self.device))

    @torch.no_grad()
    def loss(self) -> float:
        """Mean cross-entropy of the model as it stands on the probe images, nats."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for images, labels in self.batches:
            total += F.cross_entropy(self.model(images).double(), labels, reduction="sum")
        return float(total) / len(self.images)


@contextmanager
def switched(model: QuantizedModel, weights: bool | None = None, activations: bool | None = None) -> Iterator[None]:
    """Inside, quantization of weights or activations is off (False) or as it was (None or True)."""
    with model.switched_off(s for s in model.sites.values() if (weights if s.is_weight else activations) is False):
        yield


def spread(total: int, count: int) -> list[int]:
    """min(count, total) positions, evenly spread: the order of a split may be by class."""
    chosen: list[int] = np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
    return chosen
