"""What a model gives for the evaluation split."""

from __future__ import annotations

import torch
from torch import nn

from vitq.data import Images
from vitq.device import CPU_ELEMENTS, at_once
from vitq.progress import Progress
from vitq.tasks.task import Outputs, Task


@torch.no_grad()
def outputs(
    task: Task, model: nn.Module, images: Images, batch_size: int, device: torch.device, progress: Progress, stage: str
) -> Outputs:
    """What the model gives for all images, as the task keeps it, on the CPU. Raises ValueError as the task does."""
    parts, done = [], 0
    progress.stage(stage, len(images))
    for batch, _ in images.batches(batch_size, device):
        step = at_once(getattr(batch, "pixels", batch), CPU_ELEMENTS)
        for start in range(0, len(batch), step):
            parts.append(task.keep(model(batch[start : start + step]), images, done + start))
        done += len(batch)
        progress.advance(len(batch))
    return task.join(parts, images, stage)
