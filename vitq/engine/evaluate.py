"""Logits of a model on the evaluation split."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitq.data import ImageSet
from vitq.device import CPU_ELEMENTS, at_once
from vitq.errors import Problem
from vitq.progress import Progress


@torch.no_grad()
def logits(
    model: nn.Module, images: ImageSet, batch_size: int, device: torch.device, progress: Progress, stage: str
) -> Tensor:
    """(N, classes) float32 logits on the CPU, in the order of the split. Raises ValueError where one is not finite."""
    steps = -(-len(images) // batch_size)
    parts = []
    for batch, _ in progress.over(images.batches(batch_size, device), stage, steps):
        parts += [model(part).float().cpu() for part in batch.split(at_once(batch, CPU_ELEMENTS))]
    scores = torch.cat(parts)
    if not torch.isfinite(scores).all():
        bad = int((~torch.isfinite(scores)).any(dim=1).sum())
        text = f"{stage}: the model gives NaN or infinity for {bad} of {len(scores)} images"
        raise ValueError(Problem(text, "logits", bad))
    return scores
