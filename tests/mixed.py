"""A model whose sites are all calibrated, for bits to be chosen: its search space and its exact loss."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tests.tiny import images
from vitq.quant.site_table import shapes_of
from vitq.steps import Workspace
from vitq.steps.allocation.allocate import free
from vitq.steps.allocation.budget import Budget, meters
from vitq.steps.allocation.sensitivity import Trial, menu

METHOD = {
    "kinds": {
        "weight": {"quantizer": "uniform", "granularity": "channel"},
        "probs": {"quantizer": "log_sqrt2"},
        "default": {"quantizer": "uniform", "range": "percentile"},
    }
}
CALIBRATE = {"do": "calibrate"}
WIDTHS = [3, 4, 5, 6, 7, 8]


def prepared(work: Workspace, **limits: float) -> tuple[Trial, Budget, list[str]]:
    chosen = free(work.model, work.config.bits)
    trial = Trial(work, menu(work, chosen, WIDTHS), 8)
    names = [site.name for site in chosen]
    trial.start(dict.fromkeys(names, 8))
    return trial, Budget(meters(work.model, shapes_of(work.model, images(work)[:1]), chosen, WIDTHS), limits), names


def loss(work: Workspace, reference: nn.Module, count: int = 8) -> float:
    """KL(full precision ‖ quantized) of two whole forward passes in float64, on images spread over the set of 8."""
    x = images(work)[torch.from_numpy(np.linspace(0, 7, count).round().astype(int))]
    with torch.no_grad():
        exact = F.log_softmax(reference(x).double(), dim=1)
        quantized = F.log_softmax(work.model(x).double(), dim=1)
    return float((exact.exp() * (exact - quantized)).sum(dim=1).mean())
