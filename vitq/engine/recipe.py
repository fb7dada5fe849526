"""Apply a config's recipe to its model: what a run does, and what an export of it does again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn

from vitq import data
from vitq.config import RunConfig
from vitq.data import Images
from vitq.engine.memory_cache import MemoryCache
from vitq.models.structure import structure_of
from vitq.progress import Progress
from vitq.quant.model import QuantizedModel
from vitq.steps import Workspace
from vitq.steps.checkpoint import Checkpoint
from vitq.steps.curves import Curves
from vitq.steps.step import enabled_steps

# Times a part of the work under a name.
Timer = Callable[[str], AbstractContextManager[None]]


def equipped(config: RunConfig, model: nn.Module) -> QuantizedModel:
    """The model with the recipe's quantizers at its sites, none of them fitted. Changes `model` in place."""
    quantized = QuantizedModel(model)
    quantized.equip(config.method, config.bits)
    return quantized


def apply(
    config: RunConfig,
    model: nn.Module,
    where: torch.device,
    progress: Progress,
    checkpoint: Checkpoint,
    timed: Timer,
    memory: MemoryCache | None = None,
    calib: Images | None = None,
) -> Workspace:
    """Run the recipe's steps on `model` (changed in place); `work.model` is the quantized model.

    memory: where full-precision activations are kept for the next run of this process. calib: the calibration images
    where the config's data do not say them.
    """
    chosen = enabled_steps(config)
    # Layers are replaced in the model itself, so the untouched model that reconstruction aims at is copied first.
    teacher = structure_of(copy.deepcopy(model)) if any(step.needs_teacher for step in chosen) else None
    quantized = equipped(config, model)
    if calib is None:
        with timed("calibration images"):
            calib = data.calibrating(config, progress)
    work = Workspace(quantized, calib, config, where, progress, teacher, checkpoint, memory)
    curves = Curves()
    for step in chosen:
        with timed(f"steps.{step.name}"):
            step.run(work)
        curves.note(step.name, work.curves)
    if curves.curves:
        work.artifacts["curves"] = curves.table()
    return work
